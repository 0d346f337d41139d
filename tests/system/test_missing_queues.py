"""Exchanges and queues that go while the processes run: whoever needs them makes them again."""

from contextlib import closing, contextmanager, suppress

import pika
import pytest

from patchline.broker.base import Unroutable
from patchline.gate.instance import default_name
from patchline.protocol import topology
from patchline.services import private_servers, server
from tests.queues import JOBS_QUEUE
from tests.system.conftest import TIMEOUT_S, line_with_short_timeouts, wait_for
from tests.system.gates import Arm, announce, configure, decide, delete_queue, is_serving, start

pytestmark = pytest.mark.timeout(240)
QUEUES = (JOBS_QUEUE, topology.VERDICTS, topology.DEAD)
MADE_AGAIN, MISSING = "patchline_queues_made_again_total", "patchline_queues_missing"


@pytest.fixture
def picture(texture_folder):
    return next((texture_folder / "test" / "good").iterdir()).read_bytes()


@contextmanager
def own_node(plant, servers, tmp_path):
    """A line on a RabbitMQ of its own. Return both."""
    node = private_servers.rabbitmq(tmp_path / "rabbitmq")
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "models").symlink_to(plant / "models")
    with (
        private_servers.start_all([node.server]),
        line_with_short_timeouts(plant, tmp_path / "line", node.url, servers.redis_url) as line,
    ):
        yield line, node


def reset(node):
    """Forget all exchanges, queues and messages, and take connections again."""
    for command in ("stop_app", "reset", "start_app"):
        private_servers.rabbitmqctl(node, command)


def publisher(line, folder, *options):
    """Start a publisher of a watched folder. Its metrics port is in `metrics_port`."""
    folder.mkdir(exist_ok=True)
    (port,) = server.free_ports(1)
    arguments = ("--line", "l1", "--category", "brick", "--watch", str(folder), "--metrics-port", str(port))
    process = line.start("publish", *arguments, *options)
    process.metrics_port = port
    while "watching folder" not in (line_of_log := process.stderr.readline()):
        assert line_of_log, "the publisher has ended"
    return process


def send(folder, picture, name):
    (folder / f"{name}.tmp").write_bytes(picture)
    (folder / f"{name}.tmp").rename(folder / f"{name}.png")


def channel(line):
    return closing(pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"])))


def exists(line, queue):
    with channel(line) as connection:
        try:
            connection.channel().queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True


def test_workers_and_publishers_make_their_queues_again_after_a_reset_of_rabbitmq(plant, servers, picture, tmp_path):
    with own_node(plant, servers, tmp_path) as (line, node):
        worker, camera = line.worker(), publisher(line, tmp_path / "images")
        send(tmp_path / "images", picture, "before")
        assert [verdict.part_id for verdict in line.verdicts(1)] == ["before"]
        reset(node)
        send(tmp_path / "images", picture, "after")
        assert [verdict.part_id for verdict in line.verdicts(1)] == ["after"]
        ports = (worker.metrics_port, camera.metrics_port)
        wait_for(lambda: sum(line.metric(port, MADE_AGAIN) for port in ports) >= 1)
        wait_for(lambda: all(line.metric(port, MISSING) == 0 for port in ports))


def lose_record(node, queue):
    """Have RabbitMQ keep half of a quorum queue, as after two deletions while it was made (its issue 17457)."""
    in_rabbitmq_4, before = "rabbit_db_queue:delete(Name, normal)", 'rabbit_amqqueue:internal_delete(Name, <<"test">>)'
    delete = f"case code:which(rabbit_db_queue) of non_existing -> {before}; _ -> {in_rabbitmq_4} end"
    private_servers.rabbitmqctl(node, "eval", f'Name = rabbit_misc:r(<<"/">>, queue, <<"{queue}">>), {delete}.')


def test_a_queue_of_which_rabbitmq_has_kept_half_is_made_again_after_its_restart(plant, servers, picture, tmp_path):
    with own_node(plant, servers, tmp_path) as (line, node):
        worker, camera = line.worker(), publisher(line, tmp_path / "images")
        lose_record(node, JOBS_QUEUE)
        send(tmp_path / "images", picture, "waits")
        advised = line.run("topology")
        assert advised.returncode != 0
        assert "cluster_not_formed" in advised.err
        assert "restart its node" in advised.err
        wait_for(lambda: not server.responds(f"http://127.0.0.1:{worker.metrics_port}/readyz"))
        assert (worker.poll(), camera.poll()) == (None, None)
        wait_for(lambda: line.metric(worker.metrics_port, MISSING) == 1)
        node.server.stop()
        node.server.start()
        node.server.wait()
        assert [verdict.part_id for verdict in line.verdicts(1)] == ["waits"]


@pytest.mark.parametrize("process", ["worker", "publisher"])
def test_an_idle_process_makes_deleted_exchanges_and_queues_again(line, tmp_path, process):
    started = line.worker() if process == "worker" else publisher(line, tmp_path / "images")
    with channel(line) as connection:
        for queue in QUEUES:
            connection.channel().queue_delete(queue)
        for exchange in topology.EXCHANGES:
            connection.channel().exchange_delete(exchange)
    for queue in QUEUES:
        wait_for(lambda queue=queue: exists(line, queue))
    wait_for(lambda: line.metric(started.metrics_port, MADE_AGAIN) >= 1)


def test_a_deleted_queue_of_verdicts_is_made_again_although_gates_still_get_the_verdicts(line, picture, tmp_path):
    configure(line, tmp_path)
    arm = Arm(tmp_path / "arms", "arm")
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    worker = line.worker()
    with channel(line) as connection:
        connection.channel().queue_delete(topology.VERDICTS)
    wait_for(lambda: exists(line, topology.VERDICTS))
    wait_for(lambda: line.metric(worker.metrics_port, MADE_AGAIN) == 1)
    line.send(picture, "j1")
    assert [verdict.job_id for verdict in line.verdicts(1)] == ["j1"]


def test_a_missing_queue_of_verdicts_that_the_worker_may_not_make_is_shown_until_it_is_there(line, tmp_path):
    broker = line.settings.broker.model_copy(update={"make_queues": False})
    line.settings = line.settings.model_copy(update={"broker": broker})
    configure(line, tmp_path)
    worker = line.worker()
    assert line.metric(worker.metrics_port, MISSING) == 0
    with channel(line) as connection:
        connection.channel().queue_delete(topology.VERDICTS)
    wait_for(lambda: line.metric(worker.metrics_port, MISSING) == 1)
    line.reconfigure(line.folder)
    wait_for(lambda: line.metric(worker.metrics_port, MISSING) == 0)


@pytest.mark.parametrize("exchange", [topology.PARTS, topology.VERDICTS])
def test_a_gate_hears_its_line_again_after_an_exchange_was_deleted_and_made_again(line, tmp_path, exchange):
    configure(line, tmp_path)
    arm = Arm(tmp_path / "arms", "arm")
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    with channel(line) as connection:
        connection.channel().exchange_delete(exchange)
        connection.channel().exchange_declare(exchange, exchange_type="topic", durable=True)

    def is_accepted(number):
        with suppress(Unroutable):
            announce(line, f"j{number}", patience_ms=1000)
            decide(line, f"j{number}")
        return any(act["action"] == "accept" for act in arm.acts())

    numbers = iter(range(int(TIMEOUT_S * 100)))
    wait_for(lambda: is_accepted(next(numbers)))


def test_a_gate_counts_that_it_has_made_its_queue_again(line, tmp_path):
    configure(line, tmp_path)
    (port,) = server.free_ports(1)
    gate = start(line, Arm(tmp_path / "arms", "arm"), tmp_path, options=("--metrics-port", str(port)))
    wait_for(lambda: is_serving(gate))
    assert line.metric(port, MADE_AGAIN) == 0
    delete_queue(line, default_name())
    wait_for(lambda: line.metric(port, MADE_AGAIN) == 1)
