"""How long acts take over MQTT, and after what time a broker says that a gate is dead.

Run: python -m tests.system.mqtt_times mosquitto|rabbitmq [RUNS]
"""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.system.mqtt_brokers import NO_DELAY, Mosquitto, RabbitMq
from tests.system.test_mqtt_output import GATE, Arm, action

BROKERS = {"mosquitto": lambda home: Mosquitto(home, ("allow_anonymous true", NO_DELAY)), "rabbitmq": RabbitMq}
ACTS = 1000


class States:
    """The states that a subscriber receives, and when."""

    def __init__(self, broker):
        self._seen, self._news = [], threading.Condition()
        self._client = Client(CallbackAPIVersion.VERSION2, "watch")
        self._client.username_pw_set("guest", "guest")
        self._client.on_connect = lambda client, *_: client.subscribe("patchline/l/gate/+", 1)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port, 60)
        self._client.loop_start()

    def _on_message(self, _client, _data, message):
        with self._news:
            self._seen.append((json.loads(message.payload)["state"], time.monotonic()))
            self._news.notify()

    def wait(self, state, since):
        """Return when this state came after a time."""
        with self._news:
            while True:
                times = [at for name, at in self._seen if name == state and at > since]
                if times:
                    return times[0]
                assert self._news.wait(120)


def describe(values):
    values = sorted(values)
    return f"median {median(values):.4g}, p99 {values[int(len(values) * 0.99) - 1]:.4g}, max {values[-1]:.4g}"


def acts_ms(broker, folder):
    arm, times = Arm(folder, broker), []
    for number in range(ACTS):
        start = time.perf_counter()
        arm.output.act(action(f"j{number}"))
        times.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.01)
    arm.output.close()
    arm.stop()
    return times


def dead_after_s(states, broker, signal_, runs):
    times = []
    for number in range(runs):
        start = time.monotonic()
        gate = subprocess.Popen([sys.executable, "-c", GATE, broker.url])
        states.wait("serving", start)
        time.sleep(1.2 + number * 0.137 % 1.0)  # at any point of a heartbeat
        start = time.monotonic()
        gate.send_signal(signal_)
        times.append(states.wait("dead", start) - start)
        gate.kill()
        gate.wait()
    return times


def main(name, runs="20"):
    with tempfile.TemporaryDirectory() as folder:
        broker = BROKERS[name](Path(folder) / "broker")
        try:
            sys.stdout.write(f"{name}: act, ms: {describe(acts_ms(broker, Path(folder)))}\n")
            states = States(broker)
            for signal_ in (signal.SIGKILL, signal.SIGSTOP):
                times = dead_after_s(states, broker, signal_, int(runs))
                sys.stdout.write(f"{name}: dead after {signal_.name}, s: {describe(times)}\n")
        finally:
            broker.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
