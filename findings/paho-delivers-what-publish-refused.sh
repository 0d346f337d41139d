#!/bin/sh
# paho-mqtt 2.2.0: without a connection, publish() returns MQTT_ERR_NO_CONN ("the client is not currently connected")
# and keeps a message of QoS 1 all the same, without a limit. It is delivered when the connection is there. A program
# that takes the code for a failure and publishes again delivers the message as often as it tried. A command to a
# machine is then some time old.
#
# Needs mosquitto. Seen: three calls, each MQTT_ERR_NO_CONN; three messages delivered.
#
# Patchline uses a client of paho for one connection, and publishes on an open one only.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check paho-mqtt==2.2.0
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    port = unused.getsockname()[1]
config = Path(sys.argv[1], "mosquitto.conf")
config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
broker = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    received, subscribed = [], threading.Event()
    arm = Client(CallbackAPIVersion.VERSION2)
    arm.on_connect = lambda client, *_: client.subscribe("act", 1)
    arm.on_subscribe = lambda *_: subscribed.set()
    arm.on_message = lambda _client, _data, message: received.append(message.payload)
    for _ in range(100):
        try:
            arm.connect("127.0.0.1", port)
            break
        except OSError:
            time.sleep(0.1)
    arm.loop_start()
    assert subscribed.wait(20)

    gate = Client(CallbackAPIVersion.VERSION2)
    codes = [gate.publish("act", b"move", 1).rc for _ in range(3)]
    gate.connect("127.0.0.1", port)
    gate.loop_start()
    limit = time.monotonic() + 20
    while len(received) < 3 and time.monotonic() < limit:
        time.sleep(0.1)
    print(f"publish() returned {[code.name for code in codes]}; delivered: {len(received)}")
    sys.exit(0 if codes == [MQTTErrorCode.MQTT_ERR_NO_CONN] * 3 and len(received) == 3 else 1)
finally:
    broker.kill()
    broker.wait()
PYTHON
