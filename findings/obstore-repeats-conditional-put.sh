#!/bin/sh
# obstore 0.12.1: put(mode="create") on S3 (PUT with If-None-Match: *) is sent again when the answer to the first one is
# lost. The second one meets the object that the first one has made, so the caller gets AlreadyExistsError for an object
# that is its own. A lock or a log entry made in this way seems to be somebody else's.
#
# Seen: the server stores the object and closes the connection without an answer; one call of put makes two requests,
# and raises AlreadyExistsError. The server has the caller's bytes.
#
# Patchline's objects name their maker, who reads the object back (docs/decisions.md, 158).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
"$folder/env/bin/python" - <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

stored, conditions = {}, []


class Bucket(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        conditions.append(self.headers["If-None-Match"])
        if self.path in stored:
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        stored[self.path] = body  # done, and the answer is lost
        self.close_connection = True

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket",
    endpoint=f"http://127.0.0.1:{server.server_port}",
    region="eu-central-1",
    access_key_id="user",
    secret_access_key="password",
    client_options={"allow_http": True},
)
try:
    store.put("mine", b"my bytes", mode="create")
    outcome = "no error"
except AlreadyExistsError:
    outcome = "AlreadyExistsError"
said = f"{len(conditions)} requests, each with If-None-Match {set(conditions)}: {outcome}"
print(f"{said}; stored {list(stored.values())}")
is_same = outcome == "AlreadyExistsError" and conditions == ["*", "*"] and list(stored.values()) == [b"my bytes"]
sys.exit(0 if is_same else 1)
PYTHON
