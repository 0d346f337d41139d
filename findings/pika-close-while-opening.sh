#!/bin/sh
# pika 1.4.4: SelectConnection.close() on a connection that is still opening does what it says: on_open_error_callback
# gets ConnectionOpenAborted. Then ioloop.start() raises AssertionError ("Expected self ... from workflow"). A program
# that is told to end while RabbitMQ is slow to answer ends with a stack trace, and so does a thread that runs the loop
# for later connections. Before TCP is connected, close() works.
#
# Seen, with a server that accepts connections and says nothing: ConnectionOpenAborted, then AssertionError.
#
# Patchline waits for the end of the handshake, and closes the connection then (docs/decisions.md, 10).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pika==1.4.4
"$folder/env/bin/python" - <<'PYTHON'
import logging
import socket
import sys

import pika

logging.disable()
told = []
with socket.create_server(("127.0.0.1", 0)) as silent:
    connection = pika.SelectConnection(
        pika.ConnectionParameters("127.0.0.1", silent.getsockname()[1]),
        on_open_error_callback=lambda _connection, error: told.append(type(error).__name__),
    )
    connection.ioloop.call_later(0.5, connection.close)
    connection.ioloop.call_later(5, connection.ioloop.stop)
    try:
        connection.ioloop.start()
        raised = "nothing"
    except AssertionError as error:
        raised = f"AssertionError: {error}"
print(f"the callback got {told}; ioloop.start() raised {raised}")
sys.exit(0 if told == ["ConnectionOpenAborted"] and raised.startswith("AssertionError") else 1)
PYTHON
