"""The private servers stop when the process that started them ends, even by SIGKILL, and leave nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import psutil
import pytest

from patchline.protocol.errors import SetupError
from patchline.runtime import locks
from patchline.services import private_servers, server
from tests import children
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(180)

SCRIPT = """
import time
from patchline.services import private_servers
with private_servers.running({"nothing": [1]}) as servers:
    print(servers.amqp_url, flush=True)
    time.sleep(600)
"""


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_stop_and_leave_no_folder_when_the_process_that_started_them_ends(number, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PATCHLINE_")}
    environment["TMPDIR"] = str(tmp_path)
    owner = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env=environment)
    assert owner.stdout.readline().startswith(b"amqp://")
    started = psutil.Process(owner.pid).children(recursive=True)
    names = " ".join(children.names(started))
    for name in ("beam", "redis-server", "prometheus", "epmd"):
        assert name in names
    assert len(list(tmp_path.glob("patchline-*"))) == 1
    owner.send_signal(number)
    owner.wait(10)
    owner.stdout.close()
    wait_for(lambda: not any(map(children.is_alive, started)))
    assert list(tmp_path.glob("patchline-*")) == []


def test_a_server_that_is_stopped_and_started_again_finds_its_data():
    command = ["sh", "-c", "echo started >> data; exec sleep 600"]
    with private_servers.temporary_folder() as folder:
        sleeping = server.Server("sleeping", ["env", f"--chdir={folder}", *command], folder / "home", lambda: True)
        for count in (1, 2):
            with private_servers.start_all([sleeping]):
                wait_for(lambda count=count: (folder / "data").exists() and data(folder) == ["started"] * count)
    assert not folder.exists()


def test_a_guard_gets_the_mark_of_a_temporary_folder_of_its_starter_only(tmp_path):
    """Who copies such a folder to keep its data copies the mark, too, and `patchline up` may run there later."""
    script = "from patchline.services import server; import pathlib; server.mark_temporary(pathlib.Path())"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with private_servers.temporary_folder() as folder:
        marks = [server.Server("redis", [], home / "redis", lambda: True)._mark for home in (folder, tmp_path)]
        assert marks == [folder / server.MARK, None]
    assert (tmp_path / server.MARK).exists()


def test_a_guard_whose_starter_ends_before_it_has_begun_deletes_the_folder(tmp_path):
    """It took its next parent for its starter."""
    (tmp_path / "servers").mkdir()
    mark = tmp_path / "servers" / server.MARK
    mark.touch()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    guard = [sys.executable, str(Path(server.__file__).with_name("guard.py"))]
    arguments = [ended.stdout.decode().strip(), str(mark), "sleep", "60"]
    subprocess.run([*guard, *arguments], stdin=subprocess.DEVNULL, timeout=60)
    assert not mark.parent.exists()


def test_a_guard_keeps_a_lock_until_what_it_guards_has_ended(tmp_path):
    lock = locks.claim(tmp_path / "lock", "held")
    program = "ls -l /proc/self/fd > seen; trap 'sleep 0.5; exit 0' TERM; echo > ready; read _ <&9"
    command = ["bash", "-c", f"cd {tmp_path}; exec 9<>pipe; {program}"]
    os.mkfifo(tmp_path / "pipe")
    guard = server.start_guarded(command, None, None, {}, held=(lock,))
    os.close(lock)
    wait_for((tmp_path / "ready").exists)
    with pytest.raises(SetupError, match="held"):
        locks.claim(tmp_path / "lock", "held")
    assert "/lock" not in (tmp_path / "seen").read_text()
    (command,) = server.guarded(guard)
    server.stop_guarded(guard)
    os.close(locks.claim(tmp_path / "lock", "held"))
    assert not psutil.pid_exists(int(command))


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n", b"-ERR unknown command\r\n"])
def test_a_probe_asks_without_the_proxy_of_the_environment_and_takes_an_answer_without_http(monkeypatch, answer):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with socket.create_server((server.HOST, 0)) as listening:
        thread = threading.Thread(target=_answer_once, args=(listening, answer))
        thread.start()
        url = f"http://{server.HOST}:{listening.getsockname()[1]}/readyz"
        assert server.answering(url, "X") == ("y" if b"HTTP" in answer else "")
        thread.join(10)


def _answer_once(listening, answer):
    with listening.accept()[0] as client:
        client.recv(1000)
        client.sendall(answer)


def data(folder):
    return (folder / "data").read_text().split()


def test_no_connection_takes_the_port_of_a_server_that_restarts():
    first_of_clients, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = server.free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < first_of_clients


def test_servers_from_the_environment_are_used_instead_of_private_ones(monkeypatch):
    monkeypatch.setenv("PATCHLINE_AMQP_URL", "amqp://elsewhere")
    monkeypatch.setenv("PATCHLINE_REDIS_URL", "redis://elsewhere")
    with private_servers.running() as servers:
        assert (servers.amqp_url, servers.redis_url) == ("amqp://elsewhere", "redis://elsewhere")


GIVEN = """
def test_given(servers):
    assert servers.amqp_url == "{amqp}"
    assert servers.redis_url == "{redis}"
"""


def test_the_tests_use_the_servers_of_the_environment_and_say_so(servers, tmp_path):
    (tmp_path / "test_given.py").write_text(GIVEN.format(amqp=servers.amqp_url, redis=servers.redis_url))
    urls = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    options = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "0", "--rootdir", tmp_path, "-c", os.devnull)
    command = [sys.executable, "-m", "pytest", *options, tmp_path]
    result = subprocess.run(command, env=os.environ | urls, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout
    places = [f"{url.hostname}:{url.port}" for url in map(urllib.parse.urlsplit, urls.values())]
    said = f"RabbitMQ at {places[0]} (PATCHLINE_AMQP_URL), Redis at {places[1]} (PATCHLINE_REDIS_URL)"
    assert f"servers: {said}; the tests delete and create the queues" in result.stdout


@pytest.mark.usefixtures("servers")
def test_the_services_command_says_which_servers_are_given_and_shows_no_password():
    environment = os.environ | {"PATCHLINE_AMQP_URL": "amqp://u:hunter2@broker.plant,amqp://u:hunter2@other.plant:1"}
    command = [sys.executable, "-m", "patchline", "services"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    texts = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    texts.append(process.communicate(timeout=60)[0])
    assert texts[0] == (
        "# RabbitMQ at broker.plant:5672 and other.plant:1 (PATCHLINE_AMQP_URL), "
        "private Redis and Prometheus on loopback\n"
    )
    assert texts[1].startswith("export PATCHLINE_REDIS_URL=redis://127.0.0.1:")
    assert "hunter2" not in "".join(texts)


def test_the_urls_of_the_environment_may_be_in_files(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("amqp://elsewhere\n")
    monkeypatch.setenv("PATCHLINE_AMQP_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("PATCHLINE_REDIS_URL", "")
    with private_servers.running() as servers:
        assert (servers.amqp_url, servers.redis_url) == ("amqp://elsewhere", "")
    assert (
        private_servers.describe()
        == "RabbitMQ at elsewhere:5672 (PATCHLINE_AMQP_URL), Redis at no address (PATCHLINE_REDIS_URL)"
    )


def test_the_error_for_a_missing_server_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.delenv("PATCHLINE_AMQP_URL", raising=False)
    monkeypatch.setattr(private_servers, "RABBITMQ", tmp_path / "none")
    assert "rabbitmq-server" in private_servers.missing_packages()
    with pytest.raises(server.ServiceError, match="apt-get install rabbitmq-server"), private_servers.running():
        pass


def test_the_error_for_a_server_that_does_not_start_shows_the_end_of_its_log(monkeypatch, tmp_path):
    monkeypatch.delenv("PATCHLINE_AMQP_URL", raising=False)
    broken = tmp_path / "rabbitmq-server"
    broken.write_text("#!/bin/sh\necho no disk left >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(private_servers, "RABBITMQ", broken)
    with pytest.raises(server.ServiceError, match="no disk left"), private_servers.running():
        pass


def test_the_nodes_of_a_cluster_share_a_cookie_that_is_there_before_they_start(tmp_path):
    _, nodes = private_servers.cluster(tmp_path / "cluster", 3)
    (home,) = {node.server.environment["HOME"] for node in nodes}
    cookie = Path(home) / ".erlang.cookie"
    assert cookie.stat().st_mode & 0o777 == 0o400
    assert len(cookie.read_text()) >= 20
