#!/bin/sh
# werkzeug 3.1.9: `werkzeug.sansio.multipart.MultipartDecoder` gives the last part of a message one byte too many, a
# carriage return, if a piece of the message ends between the two hyphens behind the last boundary. What is uploaded
# then depends on how the network splits it.
#
# Seen with each place at which a message of two parts can be split in two: this one gives other contents.
#
# Patchline holds such a byte back until the next piece comes (`patchline/console/uploads.py`).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check werkzeug==3.1.9
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from werkzeug.sansio.multipart import Data, Epilogue, MultipartDecoder, NeedData

PART = b'--boundary\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
MESSAGE = PART % (b"a", b"first") + PART % (b"b", b"second") + b"--boundary--\r\n"


def contents(*pieces):
    decoder, found = MultipartDecoder(b"boundary"), [b""]
    for piece in pieces:
        decoder.receive_data(piece)
        while not isinstance(event := decoder.next_event(), (NeedData, Epilogue)):
            if isinstance(event, Data):
                found[-1] += event.data
                if not event.more_data:
                    found.append(b"")
    return found[:-1]


wrong = [place for place in range(len(MESSAGE)) if contents(MESSAGE[:place], MESSAGE[place:]) != [b"first", b"second"]]
for place in wrong:
    print(f"split behind {MESSAGE[:place][-12:]!r}: {contents(MESSAGE[:place], MESSAGE[place:])}")
sys.exit(0 if wrong else 1)
PYTHON
