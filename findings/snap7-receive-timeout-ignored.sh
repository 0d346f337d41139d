#!/bin/sh
# python-snap7 3.3.0: Client.set_param(Parameter.RecvTimeout, 200) is accepted, get_param returns 200, and the client
# waits 5 s for each answer all the same. The parameter is stored and used nowhere; the default it replaces is 3000.
#
# Seen, with a server that accepts connections and says nothing: connect() fails after 5.0 s
#
# Patchline uses the connection below the client, whose connect() takes a time limit (patchline/plc/s7.py).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check python-snap7==3.3.0
"$folder/env/bin/python" - <<'PYTHON'
import socket
import sys
import time

from snap7.client import Client
from snap7.error import S7Error
from snap7.type import Parameter

silent = socket.create_server(("127.0.0.1", 0))
client = Client()
client.set_param(Parameter.RecvTimeout, 200)  # milliseconds
start = time.monotonic()
try:
    client.connect("127.0.0.1", 0, 1, silent.getsockname()[1])
except S7Error as error:
    seconds = time.monotonic() - start
    print(f"RecvTimeout {client.get_param(Parameter.RecvTimeout)} ms: {error} after {seconds:.1f} s")
    sys.exit(0 if 4 < seconds < 10 else 1)
sys.exit(1)
PYTHON
