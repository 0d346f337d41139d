"""Browsers that say or read nothing keep nobody out, and their connections end by themselves."""

import asyncio
import socket
import ssl
import subprocess
import threading
import time
import types
from contextlib import ExitStack, closing

import pytest

from patchline.console import line_page, server
from patchline.console.connections import Room
from patchline.console.roles import Role
from tests.console_bench import SETTINGS, Bench

WAIT_S = 60.0
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: console\r\n\r\n"
LARGE = 20_000_000  # bytes, more than the kernel takes for one who does not read


@pytest.fixture
def serve(monkeypatch):
    """Serve an application, with short limits; what it returns connects to it."""
    stack = ExitStack()

    def start(application, room=None, head_s=WAIT_S, silent_s=WAIT_S, **files):
        monkeypatch.setattr(server, "HEAD_S", head_s)
        monkeypatch.setattr(server, "SILENT_S", silent_s)
        section = SETTINGS.console.model_copy(update={"host": "127.0.0.1", "port": 0} | files)
        listening = stack.enter_context(closing(server.listen(section)))
        pages = server.PagesServer(application, section, listening, room)
        pages.start()
        stack.callback(pages.stop)

        def connect():
            client = stack.enter_context(socket.create_connection(listening.getsockname(), WAIT_S))
            client.settimeout(WAIT_S)
            return client

        return connect

    with stack:
        yield start


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


async def large(scope, receive, send):
    """An application whose page is large."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": b"x" * LARGE})


def is_healthy(client):
    client.sendall(HEALTH)
    answer = b""
    while not answer.endswith(b"yes\n") and (piece := client.recv(1_000)):
        answer += piece
    return answer.startswith(b"HTTP/1.1 200 OK")


def has_ended(client):
    try:
        return client.recv(1_000) == b""
    except ConnectionError:
        return True


def test_hundreds_of_silent_connections_keep_nobody_out_and_the_oldest_go_first(bench, serve):
    connect = serve(bench.application, Room(most=50))
    clients = [connect() for _ in range(300)]
    assert is_healthy(connect())
    assert has_ended(clients[0])
    assert is_healthy(clients[-1])


def test_a_silent_connection_ends_by_itself_and_so_does_one_after_its_page(bench, serve):
    connect = serve(bench.application, head_s=4.0)  # a busy machine serves a page in that time
    silent, served = connect(), connect()
    assert is_healthy(served)
    assert has_ended(silent)
    assert has_ended(served)


def test_a_head_that_comes_byte_by_byte_ends_as_if_nothing_came(bench, serve):
    client = serve(bench.application, head_s=0.5)()
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline:
            client.sendall(b"G")
            time.sleep(0.02)
    except ConnectionError:
        return
    pytest.fail("it lives as long as it sends")


def test_a_form_that_stops_on_its_way_ends(bench, serve):
    client = serve(bench.application, silent_s=0.3)()
    client.sendall(b"POST /login HTTP/1.1\r\nhost: console\r\ncontent-length: 1000\r\n\r\nname=")
    assert has_ended(client)


def test_who_reads_nothing_is_left(serve, monkeypatch):
    dropped, drop = threading.Event(), server._Connection.drop

    def tell(connection):
        drop(connection)
        dropped.set()

    monkeypatch.setattr(server._Connection, "drop", tell)
    deaf = serve(large, silent_s=0.3)()
    deaf.sendall(HEALTH)
    assert dropped.wait(WAIT_S)
    taken = 0
    try:
        while piece := deaf.recv(1_000_000):
            taken += len(piece)
    except ConnectionError:
        pass
    assert taken < LARGE


def test_who_reads_slowly_is_waited_for():
    """The connection looks each time whether less is left than before."""
    left, planned, aborted = [900, 500, 500], [], []
    connection = server._Connection.__new__(server._Connection)
    connection.transport = types.SimpleNamespace(
        get_write_buffer_size=lambda: left[0], abort=lambda: aborted.append(True)
    )
    connection.loop = types.SimpleNamespace(call_later=lambda _, act, *values: planned.append((act, values)))
    connection._expect_reading()
    for _ in range(2):
        assert not aborted
        left.pop(0)
        act, values = planned.pop()
        act(*values)
    assert aborted == [True]


def test_with_https_pages_come_and_a_silent_connection_ends_before_its_handshake_as_well(
    bench, serve, tmp_path, monkeypatch
):
    monkeypatch.setattr(server, "_HANDSHAKE_S", 1.0)
    files = {"cert_file": tmp_path / "c.pem", "key_file": tmp_path / "c.key"}
    options = ["-nodes", "-newkey", "rsa:2048", "-subj", "/CN=console", "-days", "1"]
    command = ["openssl", "req", "-x509", *options, "-out", files["cert_file"], "-keyout", files["key_file"]]
    subprocess.run(command, check=True, capture_output=True)
    connect = serve(bench.application, **files)
    silent = connect()
    trusted = ssl.create_default_context(cafile=files["cert_file"])
    trusted.check_hostname = False
    for _ in range(20):  # on a busy machine a handshake may take longer than the second that it has here
        try:
            with trusted.wrap_socket(connect()) as client:
                assert is_healthy(client)
                break
        except (ssl.SSLError, ConnectionError):
            continue
    else:
        pytest.fail("no page came")
    assert has_ended(silent)


def test_when_all_connections_are_busy_the_next_one_is_told_so(serve):
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    async def busy(scope, receive, send):
        await receive()
        begun.release()
        await asyncio.to_thread(goes_on.wait, WAIT_S)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})

    connect = serve(busy, Room(most=2))
    clients = [connect() for _ in range(2)]
    try:
        for client in clients:
            client.sendall(HEALTH)
            assert begun.acquire(timeout=WAIT_S)
        late, answer = connect(), b""
        while piece := late.recv(1_000):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 503 ")
    finally:
        goes_on.set()
    assert clients[0].recv(1_000).startswith(b"HTTP/1.1 200 ")


class Held:
    """A connection that was dropped or not."""

    def __init__(self, address, waits_since):
        self.address, self.waits_since, self.dropped = address, waits_since, False

    def drop(self):
        self.dropped = True


def test_one_host_has_a_part_of_the_connections_and_this_host_whose_proxy_has_all_is_no_such_one():
    room = Room(most=5, most_of_address=2)
    first, second, other = Held("10.0.0.1", 2.0), Held("10.0.0.1", 1.0), Held("10.0.0.2", 0.0)
    assert all(map(room.admit, (first, second, other)))
    assert room.admit(Held("10.0.0.1", None))
    assert [one.dropped for one in (first, second, other)] == [False, True, False]
    first.waits_since = None
    assert not room.admit(Held("10.0.0.1", 3.0))
    locals_ = [Held("127.0.0.1", None) for _ in range(3)]
    assert [room.admit(one) for one in locals_] == [True, True, True]
    assert other.dropped
    assert not room.admit(Held("::1", None))
    room.leave(first)
    assert room.admit(Held("10.0.0.1", None))


def test_a_log_in_has_few_live_pages_and_each_of_them_ends_after_a_while(bench, monkeypatch):
    browser = bench.browser(Role.SEE)
    token = browser.session.token
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(bench.console.live.counted(token))
        answer = browser.get("/line/events")
        assert answer.status_code == 429
        assert "This log-in has too many live pages." in answer.text
    assert bench.console.live.watching(token) == 0
    monkeypatch.setattr(line_page, "_STREAM_S", 0.0)
    answer = browser.get("/line/events")
    assert answer.status_code == 200
    assert answer.text.startswith("retry: 500\n\n")
    assert bench.console.live.watching(token) == 0
