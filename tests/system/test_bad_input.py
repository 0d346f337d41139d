"""The corpus of bad input through a real worker."""

from dataclasses import replace

import psutil
import pytest

from patchline.broker.base import Message, TooLarge
from patchline.protocol import messages, topology
from patchline.protocol.messages import Decision
from patchline.runtime import connections
from patchline.services import private_servers, server
from tests import corpus
from tests.queues import JOBS_QUEUE
from tests.system.conftest import line_with_short_timeouts, wait_for

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
    assert line.messages(JOBS_QUEUE, 1, timeout_s=0.5) == []


def test_a_repeated_job_id_gets_a_verdict_each_time(line, kinds):
    line.worker("--device", "cpu")
    good = next(kind for kind in kinds if kind.fate == corpus.JUDGED)
    for _ in range(3):
        send(line, 7, good)
    assert [verdict.job_id for verdict in line.verdicts(3)] == ["kind-7"] * 3


@pytest.mark.timeout(240)
def test_images_in_the_queue_that_rabbitmq_no_longer_takes_get_their_verdicts(plant, servers, tmp_path, texture_folder):
    """A backlog from RabbitMQ 3 to 4, or a lowered max_message_size."""
    images = sorted((texture_folder / "test" / "good").iterdir())
    big = b"not an image" * 200_000
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        with (
            private_servers.start_all([node.server]),
            line_with_short_timeouts(plant, tmp_path, node.url, servers.redis_url) as line,
        ):
            for number in range(2):
                line.send(big, f"big-{number}")
            good = line.send_many(images, 20)
            node.server.stop()
            with (node.server.home / "rabbitmq.conf").open("a") as configuration:
                configuration.write("max_message_size = 1000000\n")
            node.server.start()
            node.server.wait()
            worker = line.worker("--device", "cpu")
            verdicts = {}
            while set(verdicts) < good | {"big-0", "big-1"}:
                verdicts |= {verdict.job_id: verdict for verdict in line.verdicts(1) or pytest.fail("one is missing")}
            assert {verdicts[job_id].decision for job_id in good} <= {Decision.PASS, Decision.REVIEW, Decision.FAIL}
            assert {verdicts[f"big-{number}"].decision for number in range(2)} == {Decision.ERROR}
            assert "too large to keep" in line.run("dead-letters", "replay", "big-0").err
            dead = {message.message_id: message for message in line.messages(topology.DEAD, 2)}
            assert {dead["big-0"].body, dead["big-1"].body} == {b""}
            assert dead["big-0"].headers["x-patchline-image-bytes"] == len(big)
            assert dead["big-0"].headers["x-patchline-reason"] == "unreadable_image"
            wait_for(lambda: server.responds(f"http://127.0.0.1:{worker.metrics_port}/readyz"))
            with pytest.raises(TooLarge, match="1000000"):
                line.send(big, "big-2")
