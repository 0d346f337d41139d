"""Gates with real processes: arms that fail, RabbitMQ away, clocks that are wrong."""

import fcntl
import socket
import sqlite3
import threading
import time
import urllib.parse
from contextlib import closing

import pika
import pytest

from patchline import config
from patchline.gate.instance import default_name
from patchline.protocol import status_message, topology
from patchline.protocol.messages import Announcement, Decision
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests.proxy import Proxy
from tests.system.conftest import records, wait_for
from tests.system.gates import (
    HOUR_MS,
    Arm,
    all_told,
    announce,
    assert_each_part_has_one_action,
    configure,
    decide,
    feed,
    is_serving,
    role,
    saved,
    start,
)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def arm(tmp_path):
    return Arm(tmp_path / "arms", "arm")


def test_a_part_on_which_the_arm_never_acts_delays_no_other_part(line, tmp_path):
    fault = 'if "j3" in line: continue'
    arm = Arm(tmp_path / "arms", "arm", fault)
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    for number in range(10):
        announce(line, f"j{number}", 20_000)
        decide(line, f"j{number}")
    wait_for(lambda: {f"j{number}" for number in range(10)} <= arm.job_ids())
    assert {act["action"] for act in arm.acts()} == {"accept"}
    assert "has not acknowledged" in gate.log.read_text()


def test_a_gate_that_restarts_alone_acts_within_the_patience_of_its_parts(line, arm, tmp_path):
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    gate.kill()
    gate.wait()
    announce(line, "j1", patience_ms=20_000)
    decide(line, "j1")
    start(line, arm, tmp_path)
    wait_for(arm.acts)
    assert [(act["action"], act.get("stale")) for act in arm.acts()] == [("accept", None)]


def test_an_old_image_that_was_sent_before_its_gate_started_has_its_full_deadline(line, arm, tmp_path):
    announce(line, "j1", patience_ms=HOUR_MS + 20_000, captured_at=now_ms() - HOUR_MS)
    decide(line, "j1", captured_at=now_ms() - HOUR_MS, deadline=now_ms() + 20_000)
    start(line, arm, tmp_path)
    wait_for(arm.acts)
    assert [(act["action"], act["because"], act.get("stale")) for act in arm.acts()] == [("accept", "pass", None)]


def test_a_gate_whose_metrics_port_is_taken_acts_without_metrics(line, arm, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gate = start(line, arm, tmp_path, options=("--metrics-port", str(taken.getsockname()[1])))
        announce(line, "j1")
        decide(line, "j1")
        wait_for(lambda: "j1" in arm.job_ids())
    assert "acting without metrics" in gate.log.read_text()


@pytest.mark.parametrize("fault", ["os._exit(1)", "import time; time.sleep(60)"])
def test_a_reject_that_the_arm_has_not_acknowledged_is_repeated_also_after_a_restart(line, tmp_path, fault):
    counter = "sum(1 for _ in open(sys.argv[1])) == 4"
    arm = Arm(tmp_path / "arms", "arm", f"if {counter}: {fault}")
    (port,) = server.free_ports(1)
    gate = line.start("gate", "--line", "l1", "--exec", arm.command, "--metrics-port", str(port))
    for number in range(1, 31):
        announce(line, f"j{number}", patience_ms=60_000)  # stale actions would come last
        decide(line, f"j{number}", Decision.FAIL)
    wait_for(lambda: len(arm.acts()) == 31)
    assert arm.job_ids() == {f"j{number}" for number in range(1, 31)}
    assert [act["job_id"] for act in arm.acts()].count("j4") == 2
    wait_for(lambda: line.metric(port, "patchline_gate_acts_total") == 30)
    assert line.metric(port, "patchline_gate_act_failures_total") >= 1
    gate.terminate()
    _, log = gate.communicate(timeout=30)
    assert "the arm has not acknowledged, retrying" in log


def test_a_part_whose_arm_never_acknowledged_is_told_again_by_the_next_process(line, tmp_path):
    arm = Arm(tmp_path / "arms", "arm", "os._exit(1)")
    gate = start(line, arm, tmp_path)
    announce(line, "j1", patience_ms=20_000)
    decide(line, "j1")
    wait_for(arm.acts)
    gate.kill()
    gate.wait()
    good = Arm(tmp_path / "arms", "good")
    decide(line, "j1", Decision.FAIL)  # too late: the gate was about to accept
    start(line, good, tmp_path)
    wait_for(good.acts)
    time.sleep(1.0)
    assert [(act["job_id"], act["action"]) for act in good.acts()] == [("j1", "accept")]


def test_a_gate_that_starts_while_rabbitmq_is_away_rejects_what_it_expects(line, arm, tmp_path):
    url = urllib.parse.urlsplit(line.environment["PATCHLINE_AMQP_URL"])
    proxy = Proxy(url.port)
    behind = {"PATCHLINE_AMQP_URL": f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"}
    configure(line, tmp_path)
    gate = start(line, arm, tmp_path, **behind)
    wait_for(lambda: is_serving(gate))
    for number in range(1, 4):
        announce(line, f"j{number}", patience_ms=6000)
    memory = line.settings.paths.gate / f"l1.{default_name()}.sqlite"
    wait_for(lambda: saved(memory, "expected") == 3)
    gate.kill()
    gate.wait()
    proxy.close()
    again = start(line, arm, tmp_path, "again", **behind)
    wait_for(all_told([arm], 3))
    assert {act["action"] for act in arm.acts()} == {"reject"}
    assert again.poll() is None
    assert "gate is blind" in again.log.read_text()
    pauses = [record["reconnect_in_s"] for record in records(again.log.read_text()) if "reconnect_in_s" in record]
    assert max(pauses) <= line.settings.gate.lease_ms / 2000, "all gates are back before one of them holds the lease"
    proxy = Proxy(url.port, proxy.port)
    announce(line, "j4")
    decide(line, "j4")
    wait_for(lambda: "j4" in arm.job_ids())
    proxy.close()
    assert_each_part_has_one_action([arm], range(1, 5))


def test_a_gate_without_a_connection_rejects_what_it_expects_and_accepts_nothing(line, arm, tmp_path):
    url = urllib.parse.urlsplit(line.environment["PATCHLINE_AMQP_URL"])
    proxy = Proxy(url.port)
    configure(line, tmp_path)
    gate = start(line, arm, tmp_path, PATCHLINE_AMQP_URL=f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}")
    wait_for(lambda: is_serving(gate))
    announce(line, "j1", patience_ms=6000)
    wait_for(lambda: saved(line.settings.paths.gate / f"l1.{default_name()}.sqlite", "expected") == 1)
    proxy.close()
    decide(line, "j1")
    wait_for(arm.acts)
    assert [(act["job_id"], act["action"]) for act in arm.acts()] == [("j1", "reject")]


@pytest.mark.parametrize("publisher_ahead_ms", [-HOUR_MS, 0, HOUR_MS])
@pytest.mark.parametrize("worker_ahead_ms", [0, 15_000])
def test_wrong_clocks_of_others_change_no_decision(line, arm, tmp_path, publisher_ahead_ms, worker_ahead_ms):
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    announce(line, "j1", patience_ms=4000, captured_at=now_ms() + publisher_ahead_ms)
    announce(line, "j2", patience_ms=1000, captured_at=now_ms() + publisher_ahead_ms)
    decide(line, "j1", decided_at=now_ms() + worker_ahead_ms)
    wait_for(lambda: len(arm.acts()) == 2)
    assert {act["job_id"]: act["action"] for act in arm.acts()} == {"j1": "accept", "j2": "reject"}
    differing = [event for event in records(gate.log.read_text()) if "clocks differ" in event["event"]]
    expected = {("publisher", "l1")} if publisher_ahead_ms else set()
    expected |= {("worker", "host-7")} if worker_ahead_ms else set()
    assert {(event["source"], event["host"]) for event in differing} == expected


def test_a_part_without_a_deadline_is_rejected_after_max_wait_ms_of_its_line(line, arm, tmp_path):
    configure(line, tmp_path, lines={"l1": config.GateOverride(max_wait_ms=1500)})
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    announce(line, "j1", patience_ms=None)
    announce(line, "j2", patience_ms=HOUR_MS)
    wait_for(lambda: len(arm.acts()) == 2)
    decide(line, "j1")  # past the patience: no pass
    time.sleep(1.0)
    assert [(act["action"], act["because"]) for act in arm.acts()] == [("reject", "no verdict in time")] * 2


def test_replayed_verdicts_and_those_of_other_lines_move_no_arm(line, arm, tmp_path):
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    decide(line, "replayed", replay=True)
    decide(line, "foreign", line_name="l2")
    decide(line, "own")
    wait_for(arm.acts)
    assert arm.job_ids() == {"own"}
    assert "but this is the gate of 'l1'" in gate.log.read_text()


def test_a_gate_whose_queue_is_deleted_makes_it_again_and_goes_on(line, arm, tmp_path):
    (port,) = server.free_ports(1)
    gate = line.start("gate", "--line", "l1", "--exec", arm.command, "--metrics-port", str(port))
    ready = f"http://127.0.0.1:{port}/readyz"
    wait_for(lambda: server.responds(ready) and line.metric(port, "patchline_gate_serving") == 1)
    connection = pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))
    connection.channel().queue_delete(topology.gate_queue("l1", default_name()))
    connection.close()
    wait_for(lambda: not server.responds(ready))
    wait_for(lambda: server.responds(ready) and line.metric(port, "patchline_gate_serving") == 1)
    announce(line, "j1")
    decide(line, "j1")
    wait_for(arm.acts)
    gate.terminate()
    _, log = gate.communicate(timeout=30)
    assert "gate is blind" in log


def test_a_dry_run_whose_reader_stops_goes_on_deciding_and_is_not_ready_until_it_is_read(line):
    (port,) = server.free_ports(1)
    gate = line.start("gate", "--line", "l1", "--dry-run", "--metrics-port", str(port))
    fcntl.fcntl(gate.stdout, fcntl.F_SETPIPE_SZ, 4096)
    ready = f"http://127.0.0.1:{port}/readyz"
    wait_for(lambda: server.responds(ready) and line.metric(port, "patchline_gate_serving") == 1)
    for number in range(100):
        line.publish_part_and_verdict(f"j{number}")
    wait_for(lambda: line.metric(port, "patchline_gate_undone") >= 50)  # the pipe takes no more
    wait_for(lambda: not server.responds(ready))
    time.sleep(2 * line.settings.gate.lease_ms / 1000)  # a gate that makes no steps loses its lease
    line.publish_part_and_verdict("last")
    wait_for(lambda: line.metric(port, "patchline_gate_undone") + line.metric(port, "patchline_gate_acts_total") == 101)
    assert line.metric(port, "patchline_gate_serving") == 1
    acts = []
    reader = threading.Thread(target=lambda: acts.extend(gate.stdout))
    reader.start()
    wait_for(lambda: server.responds(ready) and line.metric(port, "patchline_gate_acts_total") == 101)
    gate.terminate()
    reader.join(30)
    jobs = [act["job_id"] for act in records("".join(acts))]
    assert sorted(jobs) == sorted([*(f"j{number}" for number in range(100)), "last"])


def test_a_gate_sends_its_status(line, arm, tmp_path):
    connection = pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, topology.STATUS, "gate.l1")
    start(line, arm, tmp_path)
    states = []

    def status_is_serving():
        _, properties, body = channel.basic_get(queue, auto_ack=True)
        if body is not None:
            assert properties.type == status_message.STATUS_TYPE
            states.append(status_message.Status.model_validate_json(body))
        return states and states[-1].state == "serving"

    wait_for(status_is_serving)
    connection.close()
    assert (states[-1].role, states[-1].name, states[-1].line) == ("gate", default_name(), "l1")
    assert states[0].state in ("starting", "standby")
    assert states[-1].holds == {"expected": 0, "undone": 0, "unsent_acts": 0}
    assert states[-1].arm == "working"


def test_a_gate_acts_without_the_exchange_of_statuses_and_says_once_that_it_is_missing(line, arm, tmp_path):
    gate = start(line, arm, tmp_path)
    wait_for(lambda: is_serving(gate))
    with closing(pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))) as connection:
        channel = connection.channel()
        channel.exchange_delete(topology.STATUS)
        wait_for(lambda: "status not sent" in gate.log.read_text())
        feed(line, range(1, 20))
        wait_for(all_told([arm], 19))
        assert_each_part_has_one_action([arm], range(1, 20))
        line.broker.declare(topology.Topology((topology.STATUS,), ()))
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, topology.STATUS, "gate.l1")
        wait_for(lambda: channel.basic_get(queue, auto_ack=True)[2], 90.0)
    wait_for(lambda: "status sent again" in gate.log.read_text())
    assert gate.log.read_text().count("status not sent") == 1


def test_a_gate_needs_an_arm_or_a_dry_run(line, tmp_path):
    both = ("--exec", "cat", "--dry-run")
    for arguments in ((), both):
        process = line.run("gate", "--line", "l1", *arguments)
        assert process.returncode == 2
        assert "--exec COMMAND" in process.err
        assert "--dry-run" in process.err
    for command, error in (
        (str(tmp_path / "nothing"), "cannot be started"),
        ("", "no program"),
        ("'", "not a command"),
    ):
        process = line.run("gate", "--line", "l1", "--exec", command)
        assert (process.returncode, process.err.count("\n")) == (2, 1)
        assert error in process.err
    process = line.run("gate", "--line", "l1", "--dry-run", "--metrics-port", "70000")
    assert process.returncode == 2
    assert "--metrics-port" in process.err


def test_the_memory_of_an_earlier_build_is_used(line, arm, tmp_path):
    configure(line, tmp_path)
    line.settings.paths.gate.mkdir()
    part = Announcement(
        job_id="j1", line="l1", category="brick", part_id="p", captured_at=now_ms(), deadline=now_ms() + 3000
    )
    with closing(sqlite3.connect(line.settings.paths.gate / "l1.sqlite")) as memory, memory:
        memory.execute("CREATE TABLE expected (job_id TEXT PRIMARY KEY, part TEXT)")
        memory.execute(
            "CREATE TABLE acted (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, because TEXT)"
        )
        memory.execute("INSERT INTO expected VALUES ('j1', ?)", (part.model_dump_json(),))
        memory.execute("INSERT INTO acted (job_id, because) VALUES ('done', 'fail')")
    decide(line, "done")
    start(line, arm, tmp_path)
    wait_for(arm.acts)
    assert [(act["job_id"], act["action"]) for act in arm.acts()] == [("j1", "reject")]


def test_the_queue_of_an_earlier_build_is_named_with_the_command_that_removes_it(line, arm, tmp_path):
    connection = pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))
    shared = topology.shared_gate_queue("l1")
    connection.channel().queue_declare(shared, durable=True, arguments={"x-queue-type": "quorum"})
    gate = start(line, arm, tmp_path)
    wait_for(lambda: f"rabbitmqctl delete_queue {shared}" in gate.log.read_text())
    connection.channel().queue_delete(shared)
    connection.close()


def test_a_gate_with_the_name_of_another_host_waits_takes_nothing_from_it_and_says_so(line, tmp_path):
    arms = [Arm(tmp_path / "arms", name) for name in ("first", "second")]
    configure(line, tmp_path / "host-1")
    first = start(line, arms[0], tmp_path, "first", ("--instance", "g"))
    wait_for(lambda: is_serving(first))
    configure(line, tmp_path / "host-2")
    (port,) = server.free_ports(1)
    second = start(line, arms[1], tmp_path, "second", ("--instance", "g", "--metrics-port", str(port)))
    wait_for(lambda: "another gate of this line has the same name" in second.log.read_text())
    assert "give one of them another name with --instance" in second.log.read_text()
    assert line.metric(port, "patchline_gate_name_taken") == 1
    feed(line, range(1, 40))
    wait_for(all_told(arms, 39))
    assert_each_part_has_one_action(arms, range(1, 40))
    assert arms[1].acts() == []
    assert role(first) == "serving"
    assert role(second) == "blind"
    first.kill()
    wait_for(lambda: is_serving(second))
    assert line.metric(port, "patchline_gate_name_taken") == 0
    feed(line, range(40, 60))
    wait_for(all_told(arms, 59))
    assert_each_part_has_one_action(arms, range(1, 60))


def test_a_gate_whose_connection_is_cut_again_and_again_gets_its_queue_back(line, arm, tmp_path):
    url = urllib.parse.urlsplit(line.environment["PATCHLINE_AMQP_URL"])
    configure(line, tmp_path)
    with closing(Proxy(url.port)) as proxy:
        behind = {"PATCHLINE_AMQP_URL": f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"}
        gate = start(line, arm, tmp_path, **behind)
        wait_for(lambda: is_serving(gate))
        for number in range(1, 6):
            proxy.cut()
            announce(line, f"j{number}", patience_ms=20_000)
            decide(line, f"j{number}")
            wait_for(all_told([arm], number))
        assert {act["action"] for act in arm.acts()} == {"accept"}
    assert "same name" not in gate.log.read_text()
