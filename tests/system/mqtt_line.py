"""A line whose pictures come by MQTT: RabbitMQ with its plug-in, `patchline camera mqtt:`, and the example."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pika
import psutil
from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from docs.examples import mqtt_camera
from patchline.protocol import topology
from patchline.services import private_servers, server
from tests import forked
from tests.system.conftest import Line, records, wait_for
from tests.system.gates import complete_lines

TOPIC = "cameras/{line}/{category}/{part_id}/{captured_at}"
_READY = "RabbitMQ leads the topics of devices here"
PATIENCE_S = 120.0  # for a process to start, on a busy machine
FACTS_S = 5.0  # in which a broker answers, or will not: on a busy machine


class Peer:
    """An MQTT client that notes what happens to it: `connect`, `disconnect`, and the reason code of each PUBACK."""

    def __init__(self, url, v5=False, user="guest", password="guest"):
        self.events = []
        protocol = MQTTv5 if v5 else MQTTv311
        self.client = client = Client(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)
        client.username_pw_set(user, password)
        client.on_connect = lambda _c, _d, _f, answer, _p: self.events.append(f"connect {answer}")
        client.on_disconnect = lambda *_: self.events.append("disconnect")
        client.on_subscribe = lambda _c, _d, _n, answers, _p: self.events.append(f"subscribe {answers[0]}")
        client.on_publish = lambda _c, _d, _number, answer, _p: self.events.append(answer.value)
        client.connect("127.0.0.1", int(url.rpartition(":")[2]), 30)
        client.loop_start()
        wait_for(lambda: self.events)

    def publish(self, topic, payload, properties=None):
        """Publish with QoS 1. Return the answers so far: reason codes, and what happened to the connection."""
        self.client.publish(topic, payload, 1, properties=properties)
        return self.answers()

    def answers(self):
        """Wait for an answer to each message, or for as long as a broker that answers takes."""
        known, deadline = len(self.events), time.monotonic() + FACTS_S
        while len(self.events) == known and self.events[-1] != "disconnect" and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.events[1:]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def version(url):
    """Return the version of a RabbitMQ, as numbers."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    text = connection._impl.server_properties["version"]
    connection.close()
    return tuple(map(int, (text if isinstance(text, str) else text.decode()).split(".")[:2]))


class MqttLine:
    """The processes of a line on a broker that may be restarted, and their outputs as files."""

    def __init__(self, plant, folder, broker, redis_url, stack, more):
        self.folder, self.broker = folder, broker
        (folder / "pictures").mkdir(parents=True)
        text = (plant / "config.yaml").read_text()
        paths = f"paths: {{models: {plant / 'models'}, memory_banks: {plant / 'faiss-index-precision'}}}\n"
        (folder / "config.yaml").write_text(f"{text}{paths}{more}")
        urls = private_servers.Servers(broker.node.url, redis_url, None, None)
        self.line = Line(folder, urls, stack)

    def set_broker(self, setting):
        """Add a setting of the section `broker`."""
        file = self.folder / "config.yaml"
        file.write_text(file.read_text().replace("broker: {", f"broker: {{{setting}, "))

    def start(self, name, *words):
        """Start a program in Python with its output in a file."""
        command = [sys.executable, *words]
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=out, stderr=log, env=os.environ | self.line.environment)
        self.line.on_exit(process)
        return process

    def patchline(self, name, *words):
        """Start a patchline command with its output in a file."""
        words, variables = [*words, "--config", self.folder / "config.yaml"], os.environ | self.line.environment
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.log").open("ab") as log:
            process = forked.start(words, variables, stdout=out, stderr=log)
        self.line.on_exit(process)
        return process

    def camera(self, topic=TOPIC, *words):
        """Start `patchline camera` and wait until its marks come back. Its port is in `metrics_port`."""
        (port,) = server.free_ports(1)
        words = ["camera", "--line", "l1", *words, "--deadline-ms", "3600000", "--metrics-port", str(port)]
        starts = self.log().count(_READY)
        process = self.patchline("camera", *words, f"mqtt:{topic}")
        process.metrics_port = port
        wait_for(lambda: self.log().count(_READY) > starts or process.poll() is not None, PATIENCE_S)
        assert process.poll() is None, self.log()
        return process

    def log(self):
        """What the camera has logged."""
        file = self.folder / "camera.log"
        return file.read_text() if file.exists() else ""

    def device(self, *options, scheme="mqtt", url=None):
        """Start the program of the example, which sends what lies in `pictures`."""
        url = (url or self.broker.url).replace("mqtt:", f"{scheme}:")
        words = [str(self.folder / "pictures"), url, "cameras/l1/brick", *options]
        return self.start("device", str(Path(mqtt_camera.__file__)), *words)

    def acts(self):
        """The acts of the gate, from its output."""
        return records(complete_lines(self.folder / "gate.out"))

    def states(self, state):
        """The ids of the jobs that the camera has reported in a state."""
        reports = records(complete_lines(self.folder / "camera.out"))
        return [report["job_id"] for report in reports if report["state"] == state]

    def waiting(self):
        """The number of pictures in the spool of the device."""
        return len(list((self.folder / "pictures").glob("*.picture")))


@contextmanager
def mqtt_line(plant, folder, broker, redis_url, more=""):
    """Run a line until the block ends. Args: more: lines of its configuration."""
    with ExitStack() as stack:
        yield MqttLine(plant, folder, broker, redis_url, stack, more)


def take_pictures(line, images, count, per_second):
    """Write pictures into the spool of the device, evenly in time, on a thread that ends with the test."""

    def take():
        started = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, started + number / per_second - time.monotonic()))
            mqtt_camera.save(line.folder / "pictures", f"part-{number}", images[number % len(images)])

    thread = threading.Thread(target=take, name="pictures", daemon=True)
    thread.start()
    return thread


def restart(broker, kill=False):
    """End RabbitMQ as an administrator does, or with SIGKILL, then start it again with its data."""
    for process in psutil.Process(broker.node.server.guard.pid).children(recursive=True) if kill else ():
        with suppress(psutil.NoSuchProcess):  # the node's short-lived children
            if process.name() == "beam.smp":
                process.kill()
    broker.stop()
    broker.start()


def run_over_restarts(line, images, count, per_second, restarts, v5=False):
    """Send pictures while RabbitMQ is restarted, and device and camera are killed once. Return what became of them.

    Args:
        restarts: for each, the share of the pictures after which it happens, and whether RabbitMQ is killed.
    """
    line.patchline("worker", "worker", "--metrics-port", "0")
    line.patchline("gate", "gate", "--line", "l1", "--dry-run")
    options, camera = ["--v5"] if v5 else [], line.camera()
    device = line.device(*options)
    started, outages = time.monotonic(), []
    taking = take_pictures(line, images, count, per_second)
    for share, kill in restarts:
        wait_for(lambda share=share: time.monotonic() - started > share * count / per_second, 600)
        began = time.monotonic()
        restart(line.broker, kill)
        outages.append(round(time.monotonic() - began, 1))
        for process in (device, camera):
            process.kill()
            process.wait()
        device, camera = line.device(*options), line.camera()
    taking.join(600)
    wait_for(lambda: line.waiting() == 0, 600)
    wait_for(lambda: len({act["job_id"] for act in line.acts()}) >= count, 600)
    verdicts = []
    while len({verdict.job_id for verdict in verdicts}) < count and (more := line.line.verdicts(500, 20.0)):
        verdicts += more
    acts = Counter(act["job_id"] for act in line.acts())
    return {
        "images": count,
        "per_second": per_second,
        "bytes": sum(map(len, images)) // len(images),
        "outages_s": outages,
        "seconds": round(time.monotonic() - started, 1),
        "parts": len({verdict.part_id for verdict in verdicts}),
        "jobs": len({verdict.job_id for verdict in verdicts}),
        "decisions": dict(Counter(str(verdict.decision) for verdict in {v.job_id: v for v in verdicts}.values())),
        "verdicts_again": len(verdicts) - len({verdict.job_id for verdict in verdicts}),
        "sent_again": len(line.states("confirmed")) - len(set(line.states("confirmed"))),
        "acts": len(acts),
        "acted_twice": sum(number > 1 for number in acts.values()),
        "dead_letters": len(line.line.messages(topology.DEAD, 1, 1.0)),
    }


def assert_none_lost(result):
    """Every picture has one verdict on its image and one act."""
    count = result["images"]
    assert (result["parts"], result["jobs"], result["acts"]) == (count, count, count), result
    assert (result["acted_twice"], result["dead_letters"]) == (0, 0)
    assert result["decisions"].keys() <= {"pass", "review", "fail"}
