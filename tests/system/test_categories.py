"""A queue for each category: workers take what they serve, and backlog delays nothing fresh."""

import shutil
from contextlib import closing

import pika
import pytest

from patchline import config
from patchline.broker.base import PREVIOUS_ATTEMPTS
from patchline.protocol import topology
from patchline.protocol.messages import Decision, Job
from patchline.protocol.topology import Queue, Topology
from patchline.publisher.spool import Spool
from patchline.runtime.connections import now_ms
from tests.queues import BACKLOG_QUEUE, JOBS_QUEUE, SUSPECTS_QUEUE
from tests.system.conftest import records

pytestmark = pytest.mark.timeout(180)
BACKLOG = 1500


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").glob("*.png")).read_bytes()


@pytest.fixture
def two_categories(line, tmp_path):
    """The line with a second category, `gravel`, whose bank is that of `brick`."""
    folder = shutil.copytree(line.folder, tmp_path / "plant", symlinks=True)
    settings = config.load(folder / "config.yaml")
    categories = settings.categories | {"gravel": settings.categories["brick"]}
    config.save(settings.model_copy(update={"categories": categories}), folder / "config.yaml")
    shutil.copytree(folder / "faiss-index-precision" / "brick", folder / "faiss-index-precision" / "gravel")
    for manifest in (folder / "faiss-index-precision" / "gravel").rglob("*.json"):
        manifest.write_text(manifest.read_text().replace('"brick"', '"gravel"'))
    line.reconfigure(folder)
    return line


def test_workers_of_different_categories_answer_every_job(two_categories, picture):
    line = two_categories
    workers = [line.worker("--device", "cpu", "--category", name) for name in ("brick", "gravel")]
    for number in range(20):
        for name in ("brick", "gravel"):
            line.send(picture, f"{name}-{number}", key=f"l1.{name}", category=name)
    verdicts = line.verdicts(40)
    assert len({verdict.job_id for verdict in verdicts}) == 40
    assert all(verdict.category == verdict.job_id.split("-")[0] for verdict in verdicts)
    assert Decision.ERROR not in {verdict.decision for verdict in verdicts}
    assert len({verdict.worker for verdict in verdicts}) == len(workers)


def test_a_job_of_a_category_without_a_worker_waits_for_one(two_categories, picture):
    line = two_categories
    line.worker("--device", "cpu", "--category", "brick")
    line.send(picture, "waits", key="l1.gravel", category="gravel")
    line.send(picture, "judged", key="l1.brick")
    assert [verdict.job_id for verdict in line.verdicts(1)] == ["judged"]
    assert line.verdicts(1, timeout_s=1.0) == []
    line.worker("--device", "cpu", "--category", "gravel")
    assert [verdict.job_id for verdict in line.verdicts(1)] == ["waits"]


def ready(line, queue):
    """Return how many messages wait in a queue; None if it does not exist."""
    with pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"])) as connection:
        try:
            return connection.channel().queue_declare(queue, passive=True).method.message_count
        except pika.exceptions.ChannelClosedByBroker:
            return None


def test_a_backlog_of_one_line_does_not_make_the_parts_of_another_line_late(line, picture):
    for number in range(BACKLOG):
        line.send(picture, f"old-{number}", key="l2.brick", line="l2", exchange=topology.BACKLOG)
    line.worker("--device", "cpu")
    line.verdicts(1)  # it works on the backlog
    for number in range(20):
        line.send(picture, f"fresh-{number}", deadline=now_ms() + 10_000)
    fresh, old = {}, 1
    while len(fresh) < 20:
        (verdict,) = line.verdicts(1)
        old += verdict.line == "l2"
        fresh |= {verdict.job_id: verdict} if verdict.line == "l1" else {}
    assert Decision.EXPIRED not in {verdict.decision for verdict in fresh.values()}
    assert ready(line, BACKLOG_QUEUE) > 0
    assert len(line.verdicts(BACKLOG - old)) == BACKLOG - old


def test_a_full_queue_of_one_category_delays_no_image_of_another(two_categories, picture, tmp_path):
    line = two_categories
    limits = line.settings.broker.model_copy(update={"jobs_max_length": 5})
    config.save(line.settings.model_copy(update={"broker": limits}), line.folder / "config.yaml")
    line.reconfigure(line.folder)
    line.fill(picture, "gravel")
    folder = tmp_path / "in"
    for name in ("brick", "gravel"):
        (folder / name).mkdir(parents=True)
    publisher = line.start("publish", "--line", "l1", "--category-from", "{category}/*", "--watch", str(folder))
    while "watching folder" not in publisher.stderr.readline():
        assert publisher.poll() is None
    write(folder / "gravel", picture, 20)
    states = read_states(publisher, "spooled", 1)
    write(folder / "brick", picture, 5)
    states += read_states(publisher, "confirmed", 5, category="brick")
    assert {state["state"] for state in states if state["category"] == "brick"} == {"confirmed"}
    assert ready(line, topology.category_queue(topology.JOBS, "brick")) == 5
    publisher.terminate()
    assert publisher.wait(30) == 0
    spools = line.settings.paths.spool
    assert sorted(path.name for path in spools.glob("l1.*.sqlite")) == ["l1.brick.sqlite", "l1.gravel.sqlite"]


def test_a_spool_of_an_earlier_build_for_several_categories_is_sent(two_categories, picture, tmp_path):
    line = two_categories
    times = {"captured_at": now_ms(), "deadline": now_ms() + 600_000}
    job = Job(job_id="old", line="l1", category="gravel", part_id="p", content_type="image/png", **times)
    spools = line.settings.paths.spool
    spools.mkdir(exist_ok=True)
    with closing(Spool(spools / "l1.sqlite", max_bytes=10**9, max_age_s=86_400.0, min_free_bytes=0)) as spool:
        spool.put(job, picture, now_ms())
    publisher = line.start("publish", "--line", "l1", "--category-from", "{category}/*", "--watch", str(tmp_path))
    (state,) = read_states(publisher, "confirmed", 1)
    assert state["job_id"] == "old"
    assert ready(line, topology.category_queue(topology.JOBS, "gravel")) == 1


def write(folder, picture, count):
    for number in range(count):
        (folder / f"{folder.name}-{number}.png").write_bytes(picture + str(number).encode())


def read_states(publisher, state, count, **fields):
    """Read what a publisher prints until `count` jobs with these fields have reached a state. Return all records."""
    found = []
    while sum(record["state"] == state and fields.items() <= record.items() for record in found) < count:
        found += records(publisher.stdout.readline() or pytest.fail("the publisher has ended"))
    return found


def test_jobs_in_the_queues_of_an_earlier_build_are_judged_and_the_queues_get_no_more(line, picture):
    old = tuple(Queue(name, ((name, "#"),), {"x-queue-type": "quorum"}) for name in (topology.JOBS, topology.SUSPECTS))
    with pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"])) as connection:
        for exchange, queue in ((topology.JOBS, JOBS_QUEUE), (topology.SUSPECTS, SUSPECTS_QUEUE)):
            connection.channel().queue_unbind(queue, exchange, "*.brick")  # the earlier build did not have them
        line.broker.declare(Topology((topology.JOBS, topology.SUSPECTS), old))
        for number in range(5):
            line.send(picture, f"job-{number}")
        line.send(picture, "suspect", exchange=topology.SUSPECTS, **{PREVIOUS_ATTEMPTS: 1})
    assert ready(line, topology.JOBS) == 5
    line.worker("--device", "cpu")
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(6)}
    assert verdicts.keys() == {*(f"job-{number}" for number in range(5)), "suspect"}
    assert Decision.ERROR not in {verdict.decision for verdict in verdicts.values()}
    line.send(picture, "new")
    assert [verdict.job_id for verdict in line.verdicts(1)] == ["new"]
    assert line.verdicts(1, timeout_s=1.0) == []
    assert [ready(line, queue.name) for queue in old] == [0, 0]
