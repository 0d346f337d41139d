"""Workers killed and connections cut under load, by a seed; then everything is reconciled by job id.

The first of the chaos that the line has to stand: broker restarts, Redis outages, frozen workers and a cluster are
still to come.
"""

import os
import random
import shutil
import signal
import threading
import time
import urllib.parse

import psutil
import pytest

from inspection import backbone, config, loading
from tests.proxy import Proxy
from tests.system.conftest import line, records  # noqa: F401
from tools.evaluate import _untimed

pytestmark = pytest.mark.timeout(300)
ROUNDS, RATE, SEED = 12, 40, 4


@pytest.fixture
def patient_plant(plant, tmp_path):
    """The plant, with more attempts than there are kills: no job is the fault of its killing here."""
    folder = tmp_path / "plant"
    shutil.copytree(plant, folder, symlinks=True)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("max_attempts: 3", f"max_attempts: {3 * ROUNDS}"))
    return folder


@pytest.fixture
def pictures(texture_folder, tmp_path):
    """400 different files of 16 different pictures, each with the decision that it must get."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    sources = sorted((texture_folder / "test").glob("*/*.png"))
    for number in range(400):
        shutil.copy(sources[number % len(sources)], folder / f"n{number:03}.png")
    return folder


def test_kills_and_cuts_lose_nothing_and_change_no_decision(line, patient_plant, pictures, servers):  # noqa: F811
    line.reset(patient_plant)
    rng = random.Random(SEED)
    url = urllib.parse.urlsplit(servers.amqp_url)
    proxies = {name: Proxy(url.port) for name in ("worker", "publisher", "gate")}
    behind = {name: f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}" for name, proxy in proxies.items()}
    gate = line.start("gate", "--line", "l1", PATCHLINE_AMQP_URL=behind["gate"])
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(gate.stdout))  # a pipe that nobody reads stops its writer
    reader.start()
    line.start("worker", "--devices", "cpu:0,cpu:1", "--metrics-port", "0", PATCHLINE_AMQP_URL=behind["worker"])
    arguments = ("publish", "--line", "l1", "--category", "brick", "--rate", str(RATE), "--deadline-ms", "600000")
    publisher = line.start(*arguments, str(pictures), PATCHLINE_AMQP_URL=behind["publisher"])
    verdicts = {}
    faults = threading.Thread(target=_torment, args=(rng, proxies))
    faults.start()
    out, _ = publisher.communicate(timeout=150)
    faults.join()
    accepted = {record["job_id"]: record["part_id"] for record in records(out)}
    assert len(accepted) == 400
    deadline = time.monotonic() + 90
    while verdicts.keys() < accepted.keys() and time.monotonic() < deadline:
        for verdict in line.verdicts(50, timeout_s=1.0):
            verdicts.setdefault(verdict.job_id, verdict)
    assert verdicts.keys() == accepted.keys()
    _require_right(patient_plant, pictures, verdicts)
    time.sleep(2.0)
    gate.send_signal(signal.SIGTERM)
    assert gate.wait(30) == 0
    reader.join()
    acted = [record["job_id"] for record in records("".join(lines))]
    assert sorted(acted) == sorted(accepted)
    assert line.messages("patchline.dead", 1, timeout_s=1.0) == []
    for proxy in proxies.values():
        proxy.close()


def _torment(rng, proxies):
    """A worker killed and a connection cut, again and again."""
    for _ in range(ROUNDS):
        time.sleep(rng.uniform(0.4, 1.0))
        workers = _workers()
        if workers:
            workers[rng.randrange(len(workers))].kill()
        time.sleep(rng.uniform(0.2, 0.6))
        proxies[rng.choice(sorted(proxies))].cut()


def _workers():
    found = []
    for child in psutil.Process(os.getpid()).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if "worker" in words and "--device" in words:
            found.append(child)
    return found


def _require_right(folder, pictures, verdicts):
    inspect = loading.load(config.load(folder / "config.yaml"), ["brick"], backbone.Device("cpu", 0), streams=1)[
        "brick"
    ]
    known = {}
    for verdict in verdicts.values():
        image = (pictures / f"{verdict.part_id}.png").read_bytes()
        if image not in known:
            known[image] = inspect.inspect(image, "image/png", _untimed).decision
        assert verdict.decision is known[image]
