#!/bin/sh
# pika 1.4.4: a header whose value is an AMQP timestamp after the year 9999 raises ValueError while the frame is
# decoded, although AMQP 0-9-1 allows any 64-bit timestamp. The error comes from the I/O loop and not from a callback,
# so a consumer of such a message cannot handle it. A producer that writes milliseconds instead of seconds makes one.
#
# Seen: ValueError: year 55901 is out of range
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pika==1.4.4
"$folder/env/bin/python" - <<'PYTHON'
import struct
import sys

from pika import data

milliseconds = 1_701_900_000_000  # 2023 in milliseconds, read as seconds
try:
    data.decode_value(b"T" + struct.pack(">Q", milliseconds), 0)
except ValueError as error:
    print(f"ValueError: {error}")
    sys.exit(0 if "out of range" in str(error) else 1)
sys.exit(1)
PYTHON
