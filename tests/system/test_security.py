"""Security: permissions of the users, verified TLS, and secrets that do not leak."""

import json
import os
import shutil
import stat
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from types import SimpleNamespace

import pika
import psutil
import pytest
import trustme

from patchline import config
from patchline.broker import definitions
from patchline.broker.base import BrokerError, Message, NotConfirmed, TopologyMismatch
from patchline.broker.rabbitmq import RabbitBroker
from patchline.gate.instance import default_name
from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.runtime import connections
from patchline.services import private_servers, server
from tests.queues import BACKLOG_QUEUE, JOBS_QUEUE, SUSPECTS_QUEUE
from tests.system.conftest import Line, wait_for

pytestmark = pytest.mark.timeout(180)
REFUSED = 403
GATE_QUEUE, LEASE_QUEUE = topology.gate_queue("l1", default_name()), topology.lease_queue("l1")


@pytest.fixture(scope="module")
def users(plant, tmp_path_factory):
    """A broker with only the generated definitions; the folder with the URLs of its users."""
    folder = tmp_path_factory.mktemp("users")
    settings = config.load(plant / "config.yaml")
    queues = [
        topology.bank_news(),
        topology.gate("l1", [default_name()]),
        topology.traces(),
        connections.ledger(settings),
    ]
    topologies = [connections.plant(settings), *queues]
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq", f"load_definitions = {folder / plant_users.FILE}\n")
        plant_users.write(folder, topologies, f"amqp://127.0.0.1:{node.port}")
        with private_servers.start_all([node.server]):
            yield folder


def url(users, name):
    return (users / f"{name}.url").read_text().strip()


def attempt(address, action):
    """The reply code if RabbitMQ refuses the action, None if it does not."""
    connection = pika.BlockingConnection(pika.URLParameters(address))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        action(channel)
    except pika.exceptions.ChannelClosedByBroker as error:
        return error.reply_code
    except pika.exceptions.UnroutableError:
        return None
    finally:
        if connection.is_open:
            connection.close()
    return None


CATEGORY_QUEUES = (JOBS_QUEUE, BACKLOG_QUEUE, SUSPECTS_QUEUE)
ALLOWED = {
    "publisher": {("publish", name) for name in (topology.JOBS, topology.BACKLOG, topology.PARTS, topology.STATUS)},
    "worker": {
        ("publish", topology.JOBS),  # gives jobs back when it stops
        ("publish", topology.BACKLOG),
        ("publish", topology.VERDICTS),
        ("publish", topology.PICTURES),
        ("publish", topology.DEAD),
        ("publish", topology.SUSPECTS),
        ("publish", topology.STATUS),
        ("publish", topology.BANKS),
        ("publish", topology.SHADOWS),
        *(("consume", queue) for queue in CATEGORY_QUEUES),
    },
    "archive": {
        ("publish", topology.STATUS),
        ("consume", topology.VERDICTS),
        ("consume", topology.LEDGER),
        ("consume", topology.PICTURES),
    },
    "judge": {("publish", topology.JUDGEMENTS)},
    "console": {("publish", topology.JUDGEMENTS), ("publish", topology.BANKS)},
    "gate": {
        ("publish", topology.ACTS),
        ("publish", topology.LEASE),
        ("publish", topology.STATUS),
        ("consume", GATE_QUEUE),
        ("consume", LEASE_QUEUE),
        ("consume", topology.TRACES),
    },
}
ACTIONS = {
    "publish": lambda channel, name: channel.basic_publish(name, "l1.brick", b"x", mandatory=True),
    "consume": lambda channel, name: channel.basic_consume(name, on_message_callback=lambda *_: None),
    "delete": lambda channel, name: channel.queue_delete(name),
    "purge": lambda channel, name: channel.queue_purge(name),
    "bind": lambda channel, name: channel.queue_bind(name, topology.VERDICTS, "#"),
}


@pytest.mark.parametrize("user", ALLOWED)
def test_a_user_has_the_permissions_of_its_role_and_no_others(users, user):
    queues = [*CATEGORY_QUEUES, topology.VERDICTS, topology.DEAD, GATE_QUEUE]
    queues += [LEASE_QUEUE, topology.TRACES, topology.LEDGER, topology.PICTURES]
    attempts = [
        ("publish", name) for name in (*topology.EXCHANGES, topology.JUDGEMENTS, topology.BANKS, topology.SHADOWS)
    ]
    attempts += [(verb, name) for verb in ("consume", "delete", "purge", "bind") for name in queues]
    # RabbitMQ has no separate permission for purging: who may consume may purge.
    expected = ALLOWED[user] | {("purge", name) for verb, name in ALLOWED[user] if verb == "consume"}
    codes = {
        (verb, name): attempt(url(users, user), lambda channel, verb=verb, name=name: ACTIONS[verb](channel, name))
        for verb, name in attempts
    }
    assert {action for action, code in codes.items() if code is None} == expected
    assert {code for code in codes.values() if code is not None} == {REFUSED}
    assert attempt(url(users, user), lambda channel: channel.queue_declare("own")) == REFUSED
    assert attempt(url(users, user), lambda channel: channel.basic_publish("", JOBS_QUEUE, b"x")) == REFUSED


@pytest.mark.parametrize("user", ALLOWED)
def test_only_workers_may_hear_news_and_the_console_statuses_and_in_queues_of_their_own(users, user):
    def hear(exchange):
        def listen(channel):
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, exchange, "#")
            channel.basic_consume(queue, lambda *_: None)

        return attempt(url(users, user), listen)

    heard = {name for name in (topology.BANKS, topology.STATUS, topology.VERDICTS, topology.ACTS) if hear(name) is None}
    expected = {"worker": {topology.BANKS, topology.STATUS}, "console": {topology.STATUS}}
    assert heard == expected.get(user, set())


def test_the_default_user_and_wrong_passwords_are_refused(users):
    address = url(users, "worker").partition("@")[2]
    for credentials in ("guest:guest", "worker:worker", "worker:"):
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            pika.BlockingConnection(pika.URLParameters(f"amqp://{credentials}@{address}"))


def test_user_files_are_private_and_keep_their_passwords(users, tmp_path):
    for file in users.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folder = tmp_path / "users"
    plant_users.write(folder, [topology.gate("l1", ["g"])], "amqps://a:5671,amqps://b:5671")
    before = (folder / "gate.url").read_text()
    assert before.count("amqps://gate:") == 2
    plant_users.write(folder, [topology.gate("l1", ["g"]), topology.gate("l2", ["g"])], "amqps://a:5671,amqps://b:5671")
    assert (folder / "gate.url").read_text() == before
    document = json.loads((folder / plant_users.FILE).read_text())
    assert {queue["name"] for queue in document["queues"]} == {
        "patchline.gate.l1.g",
        "patchline.gate.l2.g",
        "patchline.lease.l1",
        "patchline.lease.l2",
    }
    assert set(definitions.PERMISSIONS) == {user["name"] for user in document["users"]}


@pytest.fixture
def restricted(users, plant, tmp_path, servers):
    """A plant whose processes read their user from a file and do not declare queues."""
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    add_setting(folder, "broker", "make_queues: false")
    return SimpleNamespace(folder=folder, users=users, redis=servers.redis_url)


def add_setting(folder, section, setting):
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(f"{section}: {{", f"{section}: {{{setting}, "))


def command(restricted, user, *arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PATCHLINE_")}
    environment |= {
        "PATCHLINE_AMQP_URL_FILE": str(restricted.users / f"{user}.url"),
        "PATCHLINE_REDIS_URL": restricted.redis,
    }
    words = [sys.executable, "-m", "patchline", *arguments, "--config", str(restricted.folder / "config.yaml")]
    return subprocess.Popen(words, env=environment, text=True, **options)


def test_a_line_works_with_three_users_and_leaks_no_secret(restricted, texture_folder, tmp_path):
    (port,) = server.free_ports(1)
    files = {name: (tmp_path / name).open("w+") for name in ("worker", "gate", "publisher")}
    output = {name: {"stdout": file, "stderr": file} for name, file in files.items()}
    gate = command(restricted, "gate", "gate", "--line", "l1", "--dry-run", **output["gate"])
    worker = command(restricted, "worker", "worker", "--metrics-port", str(port), **output["worker"])
    images = sorted((texture_folder / "test" / "good").glob("*.png"))[:3]
    publish = ("publish", "--line", "l1", "--category", "brick", *map(str, images))
    assert command(restricted, "publisher", *publish, **output["publisher"]).wait(40) == 0
    wait_for(lambda: (tmp_path / "gate").read_text().count('"action"') == len(images))
    arguments = " ".join(psutil.Process(worker.pid).cmdline())
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    open_connections = psutil.Process(worker.pid).net_connections()
    listening = {connection.laddr.ip for connection in open_connections if connection.status == "LISTEN"}
    for process in (worker, gate):
        process.terminate()
        assert process.wait(30) == 0
    logs = [(tmp_path / name).read_text() for name in files]
    for file in files.values():
        file.close()
    assert listening == {"127.0.0.1"}
    for user in definitions.PERMISSIONS:
        secret = url(restricted.users, user).split(":")[2].split("@")[0]
        assert not any(secret in text for text in [arguments, metrics, *logs])


def test_a_user_without_permission_to_declare_queues_gets_a_hint(users):
    with RabbitBroker(url(users, "worker")) as broker:
        settings = config.Config.model_validate({"categories": {"c": _category()}})
        with pytest.raises(TopologyMismatch, match="make_queues"):
            broker.declare(connections.plant(settings))


def _category():
    return {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}


def test_a_password_in_the_configuration_is_refused_and_not_printed(restricted):
    add_setting(restricted.folder, "broker", "url: 'amqp://u:hunter2@h'")
    process = command(restricted, "worker", "worker", stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 2
    assert "contains a password" in errors
    assert "hunter2" not in errors


@pytest.mark.parametrize("line", ["../../tmp/x", "a/b", "a.b", ""])
def test_a_line_name_that_would_leave_the_folder_is_refused(restricted, texture_folder, line):
    for arguments in (
        ("gate", "--line", line, "--dry-run"),
        ("publish", "--line", line, "--category", "brick", str(texture_folder)),
    ):
        process = command(restricted, "gate", *arguments, stderr=subprocess.PIPE)
        _, errors = process.communicate(timeout=40)
        assert process.returncode == 2
        assert "letters" in errors


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority, server certificates for 127.0.0.1 and another host, and a second authority."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-authority.pem")
    for host in ("127.0.0.1", "elsewhere.example", "client"):
        issued = authority.issue_cert(host)
        issued.private_key_pem.write_to_path(folder / f"{host}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{host}.pem")
    return folder


@pytest.fixture(scope="module")
def tls_servers(certificates):
    """Two RabbitMQ nodes and Redis with TLS. One node has the certificate of another host."""
    with private_servers.temporary_folder() as home:
        ports = server.free_ports(3)
        nodes = {}
        for host, port in zip(("127.0.0.1", "elsewhere.example"), ports, strict=False):
            lines = [
                f"listeners.ssl.1 = 127.0.0.1:{port}",
                "ssl_options.verify = verify_none",
                f"ssl_options.cacertfile = {certificates / 'authority.pem'}",
                f"ssl_options.certfile = {certificates / f'{host}.pem'}",
                f"ssl_options.keyfile = {certificates / f'{host}.key'}",
            ]
            nodes[host] = private_servers.rabbitmq(home / host, "\n".join(lines) + "\n")
        tls = ["--port", "0", "--tls-port", str(ports[2]), "--tls-auth-clients", "no"]
        tls += ["--tls-cert-file", str(certificates / "127.0.0.1.pem"), "--tls-key-file"]
        tls += [str(certificates / "127.0.0.1.key"), "--tls-ca-cert-file", str(certificates / "authority.pem")]
        redis, _ = private_servers.redis(home / "redis", *tls)
        redis.is_ready = lambda: server.is_listening(ports[2])
        with private_servers.start_all([*(node.server for node in nodes.values()), redis]):
            yield SimpleNamespace(
                amqp=f"amqps://guest:guest@127.0.0.1:{ports[0]}",
                wrong_host=f"amqps://guest:guest@127.0.0.1:{ports[1]}",
                redis=f"rediss://127.0.0.1:{ports[2]}/0",
                plain=nodes["127.0.0.1"].url,
            )


@pytest.fixture(scope="module")
def mutual_tls_servers(certificates):
    """RabbitMQ and Redis that talk only to clients with a certificate of the authority."""
    with private_servers.temporary_folder() as home:
        amqp_port, redis_port = server.free_ports(2)
        lines = [
            f"listeners.ssl.1 = 127.0.0.1:{amqp_port}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
            f"ssl_options.cacertfile = {certificates / 'authority.pem'}",
            f"ssl_options.certfile = {certificates / '127.0.0.1.pem'}",
            f"ssl_options.keyfile = {certificates / '127.0.0.1.key'}",
        ]
        node = private_servers.rabbitmq(home / "rabbitmq", "\n".join(lines) + "\n")
        tls = ["--port", "0", "--tls-port", str(redis_port), "--tls-auth-clients", "yes"]
        tls += ["--tls-cert-file", str(certificates / "127.0.0.1.pem"), "--tls-key-file"]
        tls += [str(certificates / "127.0.0.1.key"), "--tls-ca-cert-file", str(certificates / "authority.pem")]
        redis, _ = private_servers.redis(home / "redis", *tls)
        redis.is_ready = lambda: server.is_listening(redis_port)
        with private_servers.start_all([node.server, redis]):
            yield SimpleNamespace(
                amqp=f"amqps://guest:guest@127.0.0.1:{amqp_port}",
                redis=f"rediss://127.0.0.1:{redis_port}/0",
                plain=node.url,
            )


def test_a_worker_shows_its_certificate_to_servers_that_demand_one(
    mutual_tls_servers, certificates, plant, tmp_path, texture_folder, monkeypatch
):
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    files = ", ".join(
        f"{name}: {certificates / file}"
        for name, file in (("ca_file", "authority.pem"), ("cert_file", "client.pem"), ("key_file", "client.key"))
    )
    add_setting(folder, "broker", files)
    add_setting(folder, "redis", files)
    with ExitStack() as stack:
        addresses = SimpleNamespace(amqp_url=mutual_tls_servers.plain, redis_url=mutual_tls_servers.redis)
        line = Line(folder, addresses, stack)
        worker = line.worker("--device", "cpu", PATCHLINE_AMQP_URL=mutual_tls_servers.amqp)
        line.send(next((texture_folder / "test" / "good").glob("*.png")).read_bytes(), "mutual")
        (verdict,) = line.verdicts(1)
        assert verdict.job_id == "mutual"
        assert line.metric(worker.metrics_port, "patchline_redis_failures_total") == 0


def test_a_client_without_a_certificate_is_refused_by_a_server_that_demands_one(mutual_tls_servers, certificates):
    authority = certificates / "authority.pem"
    with RabbitBroker(mutual_tls_servers.amqp, ca_file=authority) as broker, pytest.raises(BrokerError, match="used"):
        broker.declare(topology.gate("l1", ["g"]))


@pytest.mark.parametrize(
    ("section", "url", "setting"),
    [("broker", "amqp://127.0.0.1", "ca_file"), ("redis", "redis://127.0.0.1", "cert_file")],
)
def test_files_for_tls_with_a_plain_url_are_refused_in_one_line(restricted, certificates, section, url, setting):
    file = restricted.folder / "config.yaml"
    file.write_text(file.read_text().replace("make_queues: false, ", ""))
    add_setting(restricted.folder, section, f"{setting}: a.pem")
    environment = {"PATCHLINE_AMQP_URL": "amqp://127.0.0.1:1", "PATCHLINE_REDIS_URL": "redis://127.0.0.1:1"}
    words = [sys.executable, "-m", "patchline", "worker", "--config", str(file)]
    worker = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert worker.returncode == 2
    scheme = url.split(":")[0]
    (refusal,) = [line for line in worker.stderr.splitlines() if line.startswith("patchline: ")]
    assert f"{section}.{setting} is set, but the url begins with {scheme}://" in refusal
    assert "Traceback" not in worker.stderr


def test_a_worker_over_tls_judges_and_stores_verdicts(tls_servers, certificates, plant, tmp_path, texture_folder):
    folder = shutil.copytree(plant, tmp_path / "plant", symlinks=True)
    ca_setting = f"ca_file: {certificates / 'authority.pem'}"
    add_setting(folder, "broker", ca_setting)
    add_setting(folder, "redis", ca_setting)
    with ExitStack() as stack:
        line = Line(folder, SimpleNamespace(amqp_url=tls_servers.plain, redis_url=tls_servers.redis), stack)
        worker = line.worker("--device", "cpu", PATCHLINE_AMQP_URL=tls_servers.amqp)
        line.send(next((texture_folder / "test" / "good").glob("*.png")).read_bytes(), "over-tls")
        (verdict,) = line.verdicts(1)
        assert verdict.job_id == "over-tls"
        assert line.metric(worker.metrics_port, "patchline_redis_failures_total") == 0


@pytest.mark.parametrize("trusted", ["other-authority.pem", None])
def test_nothing_is_sent_to_a_broker_with_an_untrusted_authority(tls_servers, certificates, trusted):
    with RabbitBroker(tls_servers.amqp, ca_file=trusted and certificates / trusted) as broker:
        with pytest.raises(BrokerError, match="cannot be used"):
            broker.declare(topology.gate("l1", ["g"]))
        with pytest.raises(NotConfirmed):
            broker.publish(topology.JOBS, "l1.brick", Message(b"secret"), timeout_s=2.0)


def test_nothing_is_sent_to_a_broker_with_the_certificate_of_another_host(tls_servers, certificates):
    authority = certificates / "authority.pem"
    with RabbitBroker(tls_servers.wrong_host, ca_file=authority) as broker, pytest.raises(BrokerError, match="used"):
        broker.declare(topology.gate("l1", ["g"]))


def test_a_missing_ca_file_is_named(tls_servers, tmp_path):
    with pytest.raises(BrokerError, match=r"missing\.pem"):
        RabbitBroker(tls_servers.amqp, ca_file=tmp_path / "missing.pem")
