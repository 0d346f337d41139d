"""The corpus of bad input through a real worker."""

from dataclasses import replace

import psutil
import pytest

from patchline.broker.base import Message, TooLarge
from patchline.protocol import messages, topology
from patchline.protocol.messages import Decision
from patchline.runtime import connections
from tests import corpus

pytestmark = pytest.mark.timeout(180)
MAX_GROWTH = 400e6  # bytes: enough for a few lanes to decode the largest accepted images


@pytest.fixture(scope="module")
def kinds(texture_folder):
    return corpus.kinds(next((texture_folder / "test" / "good").glob("*.png")).read_bytes())


def send(line, number, kind):
    """Publish a job of this kind. Return False if it is above the broker's limit, which only RabbitMQ knows."""
    name = f"kind-{number}"
    headers = {"line": "l1", "category": "brick", "part_id": name, "captured_at": connections.now_ms()} | kind.headers
    headers = {key: value for key, value in headers.items() if value is not None}
    message = Message(kind.image, name, messages.JOB_TYPE, kind.content_type, headers)
    try:
        line.broker.publish(topology.JOBS, "l1.brick", replace(message, **kind.properties))
    except TooLarge:
        assert len(kind.image) > line.settings.images.max_bytes, "a broker for images takes what a worker takes"
        return False
    return True


def fate(verdict):
    if verdict.decision is Decision.ERROR:
        return verdict.reason
    return corpus.EXPIRED if verdict.decision is Decision.EXPIRED else corpus.JUDGED


def test_every_kind_of_bad_input_gets_its_verdict_and_dead_letter(line, kinds):
    worker = line.worker("--device", "cpu")
    before = psutil.Process(worker.pid).memory_info().rss
    assert len(kinds) >= 80
    sent = {f"kind-{number}": kind for number, kind in enumerate(kinds) if send(line, number, kind)}
    verdicts = line.verdicts(len(sent))
    by_name = {verdict.job_id: verdict for verdict in verdicts} | {verdict.part_id: verdict for verdict in verdicts}
    expected = {kind.name: kind.fate for kind in sent.values()}
    assert {kind.name: fate(by_name[job_id]) for job_id, kind in sent.items()} == expected
    assert all(verdict.detail for verdict in verdicts if verdict.decision is Decision.ERROR)
    errors = [kind for kind in sent.values() if kind.fate not in (corpus.JUDGED, corpus.EXPIRED)]
    dead_letters = line.messages(topology.DEAD, len(errors) + 1, timeout_s=5.0)
    assert len(dead_letters) == len(errors)
    assert {letter.body for letter in dead_letters} == {kind.image for kind in errors}
    assert worker.poll() is None
    assert line.metric(worker.metrics_port, "patchline_errors_total") == len(errors) + 1  # the expired one
    assert psutil.Process(worker.pid).memory_info().rss - before < MAX_GROWTH
    assert line.messages(topology.JOBS, 1, timeout_s=0.5) == []


def test_a_repeated_job_id_gets_a_verdict_each_time(line, kinds):
    line.worker("--device", "cpu")
    good = next(kind for kind in kinds if kind.fate == corpus.JUDGED)
    for _ in range(3):
        send(line, 7, good)
    assert [verdict.job_id for verdict in line.verdicts(3)] == ["kind-7"] * 3
