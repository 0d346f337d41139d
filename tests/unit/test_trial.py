"""The planning of `patchline up`: what starts when, which ports and servers, and what becomes of a child that ends."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from patchline import config
from patchline.cli import up
from patchline.operations import init
from patchline.protocol.errors import DiskFull, MismatchError, SetupError
from patchline.runtime import locks
from patchline.services import private_servers
from patchline.services.server import ServiceError
from patchline.trial import folder_lock, lines, memory, plant, ports, processes, room, servers
from patchline.trial.child import Child


class Process:
    """A process whose exit code the test sets."""

    def __init__(self):
        self.code, self.stops = None, 0

    def poll(self):
        return self.code


class Bench:
    """A child, its processes, and what it has said."""

    def __init__(self):
        self.processes, self.said, self.may, self.ready = [], [], True, False
        self.child = Child(
            "worker",
            self.launch,
            lambda _: self.ready,
            lambda process: setattr(process, "stops", process.stops + 1),
            lambda name, text: self.said.append(f"{name} {text}"),
            lambda: self.may,
            lambda: "the last line",
        )

    def launch(self):
        self.processes.append(Process())
        return self.processes[-1]

    def run(self, *times):
        for now in times:
            self.child.step(now)
        return len(self.processes)


def test_a_child_starts_once_it_may_and_says_when_it_is_ready():
    bench = Bench()
    bench.may = False
    assert bench.run(1.0, 2.0) == 0
    bench.may = True
    assert bench.run(3.0, 3.2) == 1
    assert (bench.child.ready, bench.said) == (False, [])
    bench.ready = True
    bench.run(3.4, 3.6)
    assert (bench.child.ready, bench.said) == (True, ["worker ready"])


def test_a_child_that_ends_starts_again_later_each_time():
    bench, now, pauses = Bench(), 1.0, []
    for _ in range(8):
        bench.run(now, now + 0.2)
        bench.processes[-1].code = 2
        bench.run(now + 0.4)
        count, now = len(bench.processes), now + 0.4
        while bench.run(now) == count:
            now += 0.25
        pauses.append(bench.said[-1])
    waits = [float(said.split("again in ")[1].split()[0]) for said in pauses]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert bench.said[0] == "worker ended with code 2, starts again in 1 s: the last line"


def test_a_child_that_has_started_does_not_wait_for_the_others_again_and_a_long_life_forgets_failures():
    bench = Bench()
    bench.run(1.0)
    bench.may, bench.processes[0].code = False, 1
    assert bench.run(2.0, 3.1) == 2
    bench.processes[1].code = 247  # as its guard says of SIGKILL
    bench.run(100.0)
    assert "was ended by signal 9, starts again in 1 s" in bench.said[-1]


def test_a_child_that_a_full_disk_lets_not_start_is_told_and_tried_again():
    bench = Bench()
    launch, full = bench.child.launch, OSError(errno.ENOSPC, "No space left on device")

    def fail():
        raise full

    bench.child.launch = fail
    bench.run(1.0, 1.5, 2.0)
    text = "worker cannot be started: the disk is full, make room on it; next try in"
    assert bench.said == [f"{text} 1 s", f"{text} 2 s"]
    bench.child.launch = launch
    assert bench.run(3.9) == 0
    assert bench.run(4.0) == 1


def test_a_start_on_a_full_disk_names_the_folder_and_another_error_is_none_of_it(folder, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(servers, "choose", fail)
    trial = plant.Trial(folder / "config.yaml", "cpu", lambda *_: None)
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFull, match="up: the disk is full; make room on it"):
        trial.run(threading.Event(), lambda _: None)
    error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output error"):
        trial.run(threading.Event(), lambda _: None)


def test_an_output_on_a_full_disk_keeps_no_plant_from_being_ended(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    up._say("worker", "ended")


def test_a_memory_that_a_full_disk_does_not_take_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"state.json: the disk is full; make room on it"):
        memory.Memory(tmp_path / "state.json").save()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_cannot_run_is_given_up():
    bench = Bench()
    bench.run(1.0)
    bench.processes[0].code = MismatchError.exit_code
    assert bench.run(2.0, 100.0, 1000.0) == 1
    advice = "it starts once bank or configuration are others; else start patchline up again"
    assert bench.said == [f"worker cannot run, and is not started again: the last line; {advice}"]
    bench.child.stop()
    assert bench.processes[0].stops == 0


def test_a_child_that_was_given_up_is_started_again_once_what_it_needs_is_another():
    bench = Bench()
    bench.run(1.0)
    bench.processes[0].code = MismatchError.exit_code
    bench.run(2.0)
    bench.child.renew("there is a new memory bank of gasket")
    assert bench.said[-1] == "worker is started again: there is a new memory bank of gasket"
    assert bench.run(2.2, 2.4) == 2
    bench.ready = True
    bench.run(2.6)
    assert bench.said[-1] == "worker ready"


def test_a_corrected_configuration_starts_again_who_could_not_run_with_the_other(folder, monkeypatch):
    said = []
    trial = plant.Trial(folder / "config.yaml", "cpu", lambda name, text: said.append(f"{name} {text}"))
    gate, console = Bench().child, Bench().child
    trial._children = {"gate press-3": gate, "console": console}
    monkeypatch.setattr(console, "launch", lambda: None)
    gate.given_up = True
    trial.step(10.0)
    assert gate.given_up
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text + "\n# corrected\n")
    os.utime(folder / "config.yaml", (1, 1))
    trial.step(20.0)
    assert (gate.given_up, gate.process is not None) == (False, True)


def test_a_disk_is_told_of_at_each_limit_once_and_when_there_is_room_again(folder):
    limits, said, free = room.limits(config.load(folder / "config.yaml")), [], [3_000_000_000]
    watched = room.Room(folder, limits, said.append, lambda _: free[0])
    assert [limit for limit, _ in limits] == [2_000_000_000, 200_000_000, 50_000_000]
    for free[0] in (3_000_000_000, 1_900_000_000, 1_900_000_000, 2_100_000_000, 40_000_000, 0, 0, 52_000_000, 10**10):
        watched.look()
    assert [text.removeprefix(f"{folder}: its disk has ") for text in said] == [
        "1900 MB free, so the archive stores no pictures of parts; make room on it",
        "40 MB free, so a RabbitMQ on it takes nothing, and pictures wait with their publishers; make room on it",
        "10000 MB free, there is room again",
    ]


def test_a_disk_that_does_not_answer_is_none_of_a_trial(folder):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    room.Room(folder, [(1, "nothing")], pytest.fail, fail).look()
    assert not room.is_full(folder / "absent")


def test_the_last_line_of_a_log_on_a_full_disk_is_told_as_an_old_one(tmp_path, monkeypatch):
    log = tmp_path / "worker.log"
    log.write_text("worker ready\n")
    assert processes._last_line(log) == f"worker ready ({log})"
    monkeypatch.setattr(room, "free_bytes", lambda _: 4096)
    text = f"its disk is full, make room on it; its log ends: worker ready ({log})"
    assert processes._last_line(log) == text


def test_a_secret_of_rabbitmq_that_a_full_disk_did_not_take_is_written_once_there_is_room(tmp_path, monkeypatch):
    path, write_text = tmp_path / ".erlang.cookie", Path.write_text

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        private_servers._write_cookie(path)
    monkeypatch.setattr(Path, "write_text", write_text)
    path.touch(mode=0o600)  # as earlier builds left it
    private_servers._write_cookie(path)
    secret = path.read_text()
    assert (len(secret), path.stat().st_mode & 0o777) == (40, 0o400)
    private_servers._write_cookie(path)
    assert path.read_text() == secret
    assert list(tmp_path.iterdir()) == [path]


def test_a_child_is_started_anew_without_a_pause_and_asked_once():
    bench = Bench()
    bench.run(1.0)
    bench.child.renew("a new bank")
    bench.child.renew("a new bank")
    assert (bench.processes[0].stops, bench.said) == (1, ["worker starts anew: a new bank"])
    bench.processes[0].code = 0
    assert bench.run(2.0, 2.2) == 2
    assert len(bench.said) == 1


def test_wanted_ports_are_taken_if_they_are_free_and_nobody_else_wants_them():
    used, spare = {8420}, [20001, 9100, 20002, 20003, 20004, 20005]

    def take(port):
        return port not in used and (used.add(port) or True)

    wanted = {"pages": 8420, "worker": 9100, "archive": 9140, "console": 0, "gate l1": 9140}
    chosen = ports.choose(wanted, take, lambda count: spare[:count])
    assert chosen == {"pages": 20001, "worker": 9100, "archive": 9140, "console": 20002, "gate l1": 20003}


def test_free_ports_that_others_take_meanwhile_are_an_error_with_an_advice():
    with pytest.raises(ServiceError, match="have taken the free ports meanwhile; start it again"):
        ports.choose({"pages": 8420, "worker": 0}, lambda port: port == 8420, lambda count: [20001, 20002][:count])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PATCHLINE_")]:
        monkeypatch.delenv(name)
    init.init(tmp_path / "plant", "press-3", "gasket")
    init.init(tmp_path / "plant", "press-4", "gasket")
    return tmp_path / "plant"


def test_the_lines_are_those_of_the_files_for_systemd(folder):
    first, second = lines.of_plant(folder, config.load(folder / "config.yaml"))
    assert (first.name, first.category, first.folder) == ("press-3", "gasket", folder / "captured")
    assert (second.name, second.folder) == ("press-4", folder / "captured-press-4")
    assert (second.publisher_port, second.gate_port) == (9111, 9121)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("FOLDER=captured\n", "has no line CATEGORY="),
        ("CATEGORY=seal\nFOLDER=captured\n", "'seal' is not configured"),
        ("CATEGORY=gasket\nFOLDER=elsewhere\n", "elsewhere is no folder"),
    ],
)
def test_a_line_that_cannot_be_watched_is_an_error_that_names_its_file(folder, text, error):
    (folder / "publisher-press-4.env").write_text(text)
    configured = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(configured.replace('new_categories_like: "gasket"', ""))
    with pytest.raises(SetupError, match=error):
        lines.of_plant(folder, config.load(folder / "config.yaml"))


def test_the_archive_comes_first_and_pictures_are_sent_once_they_can_be_judged(folder):
    settings = config.load(folder / "config.yaml")
    watched = lines.of_plant(folder, settings)
    wanted = processes.wanted_ports(settings, watched)
    made = {one.name: one for one in processes.programs(wanted, watched, "cpu:0", folder / "handed")}
    started = []
    while len(started) < len(made):
        started += [name for name in made if name not in started and set(made[name].needs) <= {*started}][:1]
    assert started[0] == "archive"
    assert made["publisher press-3"].needs == ("worker", "gate press-3")
    assert made["worker"].arguments == ("worker", "--device", "cpu:0", "--metrics-port", "9100")
    handed = ("--hand-in", str(folder / "handed"))
    assert made["console"].arguments == ("console", "--port", "8420", *handed, "--metrics-port", "9150")
    assert made["hand-in press-4"].arguments[:-1] == (
        "publish",
        "--line",
        "press-4",
        "--watch",
        *handed,
        "--metrics-port",
    )
    assert made["hand-in press-4"].needs == ("worker", "gate press-4")
    assert "--dry-run" in made["gate press-4"].arguments
    named = [port for port in wanted.values() if port]
    assert len(set(named)) == len(named)


def test_a_folder_that_is_not_of_the_plant_is_named_as_in_a_copy(folder, tmp_path, monkeypatch):
    copy, said = tmp_path / "copy", []
    shutil.copytree(folder, copy)
    (copy / "publisher-press-4.env").write_text("CATEGORY=gasket\nFOLDER=captured-press-4\n")

    def full(*_):
        raise SetupError("far enough")

    monkeypatch.setattr(plant.Trial, "_make_hand_in", full)
    for one in (folder, copy):
        trial = plant.Trial(one / "config.yaml", "cpu", lambda name, text: said.append(f"{name} {text}"))
        with pytest.raises(SetupError, match="far enough"):
            trial.run(threading.Event(), lambda _: None)
    text = "which is not in this plant's folder; publisher-press-3.env says so"
    assert said == [f"publisher press-3 watches {folder}/captured, {text}"]


class Steps(threading.Event):
    """A stop that is set after some waits, which take no time."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def wait(self, _=None):
        self.count -= 1
        if self.count == 0:
            self.set()


def killed(path):
    """Lock the file as the guards of a process that is no more."""
    lock = locks.claim(path, "it runs")
    path.write_text("99999999\n")  # above the highest id of Linux
    return lock


def test_a_trial_waits_for_what_a_killed_one_has_started(tmp_path):
    lock, said = killed(tmp_path / "lock"), []

    def say(text):
        said.append(text)
        os.close(lock)

    claimed = folder_lock.claim(tmp_path / "lock", "it runs", Steps(5), say)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    os.close(claimed)
    assert said == ["an earlier one was killed; what it has started ends first"]


def test_a_trial_that_waits_for_a_killed_one_can_be_ended_and_says_what_does_not_end(tmp_path):
    lock, said = killed(tmp_path / "lock"), []
    assert folder_lock.claim(tmp_path / "lock", "it runs", Steps(3), said.append) is None
    assert len(said) == 1
    with pytest.raises(SetupError, match="of a patchline up that was killed do not end; find them with: fuser -v"):
        folder_lock.claim(tmp_path / "lock", "it runs", Steps(3), said.append, patience_s=-1.0)
    os.close(lock)


def test_a_trial_does_not_wait_for_one_that_runs(tmp_path):
    lock = locks.claim(tmp_path / "lock", "it runs")
    with pytest.raises(SetupError, match=rf"it runs \(process {os.getpid()}\)"):
        folder_lock.claim(tmp_path / "lock", "it runs", Steps(3), pytest.fail)
    (tmp_path / "lock").write_text("")  # a full disk took no id
    with pytest.raises(SetupError, match=r"it runs \(process unknown\)"):
        folder_lock.claim(tmp_path / "lock", "it runs", Steps(3), pytest.fail)
    os.close(lock)


def chosen(folder, answers, remembered=None):
    settings = config.load(folder / "config.yaml")
    remembered = remembered or memory.Memory(folder / "state.json")
    with ports.Claims() as claims:
        return servers.choose(
            settings, folder / "up", remembered, claims.choose, lambda host, port: (host, port) in answers
        )


def test_servers_that_answer_are_used(folder):
    found = chosen(folder, {("127.0.0.1", 5672), ("127.0.0.1", 6379)})
    assert (found.own, found.environment) == ([], {})
    assert [name for name, _ in found.used] == ["rabbitmq", "redis"]


def test_servers_on_another_host_or_of_the_environment_have_to_answer(folder, monkeypatch):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("127.0.0.1:5672", "broker.plant:5672"))
    with pytest.raises(SetupError, match=r"does not answer at broker\.plant:5672"):
        chosen(folder, set())
    monkeypatch.setenv("PATCHLINE_AMQP_URL", "amqp://u:hunter2@127.0.0.1:1234")
    with pytest.raises(SetupError, match=r"does not answer at 127\.0\.0\.1:1234") as refused:
        chosen(folder, set())
    assert "hunter2" not in str(refused.value)


@pytest.mark.skipif(bool({*private_servers.missing_packages()} - {"prometheus"}), reason="no servers are installed")
def test_private_servers_keep_their_ports_and_the_name_of_their_node(folder):
    remembered = memory.Memory(folder / "state.json")
    first = chosen(folder, set(), remembered)
    assert [one.name for one in first.own] == ["rabbitmq", "redis"]
    remembered.save()
    again = memory.read(folder / "state.json")
    assert again == remembered
    assert again.node
    assert chosen(folder, set(), again).environment == first.environment
    again.ports["rabbitmq"] = 1  # taken since: the data are found by the name
    moved = chosen(folder, set(), again)
    assert moved.own[0].environment["RABBITMQ_NODENAME"] == remembered.node


def test_a_memory_that_is_damaged_is_not_made_anew(tmp_path):
    assert memory.read(tmp_path / "state.json").node == ""
    (tmp_path / "state.json").write_text('{"node": "patchline-1@localhost"')
    with pytest.raises(SetupError, match=r"state\.json: is damaged"):
        memory.read(tmp_path / "state.json")


@pytest.mark.parametrize(
    ("served", "bank", "new"),
    [
        (None, "folder 1", True),
        (None, "store", True),
        ("folder 1", "folder 1", False),
        ("folder 1", "folder 2", True),
        ("folder 1", "store", False),
        ("store", "store", False),
        ("store", "folder 1", False),
    ],
)
def test_a_worker_is_started_anew_for_banks_that_it_cannot_switch_to(served, bank, new):
    assert plant.is_new(served, bank) is new


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "http://127.0.0.1:8421/"),
        ({"host": "0.0.0.0", "prefix": "/plant"}, "http://127.0.0.1:8421/plant/"),
        ({"host": "::1"}, "http://[::1]:8421/"),
        ({"cert_file": "c.pem", "key_file": "c.key"}, "https://127.0.0.1:8421/"),
    ],
)
def test_the_address_of_the_console_can_be_opened_on_this_host(changes, url):
    assert plant.address(config.Console().model_copy(update=changes), 8421) == url


def test_a_folder_without_a_plant_is_no_line_of_a_stack_trace(tmp_path):
    with pytest.raises(SetupError, match="cannot be read"):
        plant.Trial(tmp_path / "config.yaml", "cpu", lambda *_: None)
