"""The program of an arm behind MQTT, a process: python mqtt_arm.py URL LINE LOG MODE [CA_FILE].

It writes into LOG which jobs it was told and which states of gates it has seen. MODE is what it answers: `json`,
`bare`, `error`, `other` (another job), `silent`.
"""

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion


def main(url, line, log, mode, ca_file=None):
    parts = urlsplit(url)
    client = Client(CallbackAPIVersion.VERSION2, "arm", protocol=MQTTv311)
    client.reconnect_delay_set(1, 1)
    if parts.username:
        client.username_pw_set(parts.username, parts.password)
    if ca_file:
        client.tls_set(ca_file)

    def write(entry):
        with Path(log).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def on_message(_client, _data, message):
        body = json.loads(message.payload)
        if "/gate/" in message.topic:
            write({"state": body["state"], "gate": body["gate"]})
            return
        write({"job": body["job_id"]})
        answers = {
            "json": json.dumps(body),
            "bare": body["job_id"],
            "error": json.dumps({"job_id": body["job_id"], "error": "bin full"}),
            "other": "another-job",
        }
        if mode in answers:
            client.publish(f"patchline/{line}/ack", answers[mode], 1)

    client.on_connect = lambda *_: client.subscribe([(f"patchline/{line}/act", 1), (f"patchline/{line}/gate/+", 1)])
    client.on_subscribe = lambda *_: write({"ready": True})
    client.on_message = on_message
    client.connect(parts.hostname, parts.port, 2)
    client.loop_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
