"""Nobody in: users who may do what is theirs, TLS that is verified, secrets that stay where they are."""

import json
import os
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
from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.runtime import connections
from patchline.services import private_servers, server
from tests.system.conftest import Line, wait_for

pytestmark = pytest.mark.timeout(180)
REFUSED = 403


@pytest.fixture(scope="module")
def users(plant, tmp_path_factory):
    """A broker that knows nothing but the generated definitions; the urls of its users."""
    folder = tmp_path_factory.mktemp("users")
    settings = config.load(plant / "config.yaml")
    wanted = [connections.plant(settings), topology.gate("l1"), topology.traces()]
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq", f"load_definitions = {folder / plant_users.FILE}\n")
        plant_users.write(folder, wanted, f"amqp://127.0.0.1:{node.port}")
        with private_servers.start_all([node.server]):
            yield folder


def url(users, name):
    return (users / f"{name}.url").read_text().strip()


def attempt(address, action):
    """The code with which RabbitMQ refuses; None where it does not."""
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


ALLOWED = {
    "publisher": {("publish", topology.JOBS), ("publish", topology.PARTS)},
    "worker": {
        ("publish", topology.VERDICTS),
        ("publish", topology.DEAD),
        ("publish", topology.SUSPECTS),
        ("consume", topology.JOBS),
        ("consume", topology.SUSPECTS),
    },
    "gate": {("consume", topology.gate_queue("l1")), ("consume", topology.TRACES)},
}
ACTIONS = {
    "publish": lambda channel, name: channel.basic_publish(name, "l1.brick", b"x", mandatory=True),
    "consume": lambda channel, name: channel.basic_get(name),
    "delete": lambda channel, name: channel.queue_delete(name),
    "purge": lambda channel, name: channel.queue_purge(name),
    "bind": lambda channel, name: channel.queue_bind(name, topology.VERDICTS, "#"),
}


def _act(verb, name, channel):
    ACTIONS[verb](channel, name)


@pytest.mark.parametrize("user", ALLOWED)
def test_each_user_may_do_what_is_its_own_and_nothing_else(users, user):
    queues = [topology.JOBS, topology.SUSPECTS, topology.VERDICTS, topology.DEAD, topology.gate_queue("l1")]
    queues.append(topology.TRACES)
    tried = [("publish", name) for name in topology.EXCHANGES]
    tried += [(verb, name) for verb in ("consume", "delete", "purge", "bind") for name in queues]
    # To purge is to read everything at once: RabbitMQ knows no finer right.
    expected = ALLOWED[user] | {("purge", name) for verb, name in ALLOWED[user] if verb == "consume"}
    outcome = {
        each: attempt(url(users, user), lambda channel, each=each: ACTIONS[each[0]](channel, each[1])) for each in tried
    }
    assert {each for each, code in outcome.items() if code is None} == expected
    assert {code for code in outcome.values() if code is not None} == {REFUSED}
    assert attempt(url(users, user), lambda channel: channel.queue_declare("own")) == REFUSED
    assert attempt(url(users, user), lambda channel: channel.basic_publish("", topology.JOBS, b"x")) == REFUSED


def test_nobody_gets_in_with_the_first_user_or_a_wrong_password(users):
    address = url(users, "worker").partition("@")[2]
    for credentials in ("guest:guest", "worker:worker", "worker:"):
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            pika.BlockingConnection(pika.URLParameters(f"amqp://{credentials}@{address}"))


def test_written_files_are_for_their_owner_and_keep_their_passwords(users, tmp_path):
    for file in users.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folder = tmp_path / "users"
    plant_users.write(folder, [topology.gate("l1")], "amqps://a:5671,amqps://b:5671")
    before = (folder / "gate.url").read_text()
    assert before.count("amqps://gate:") == 2
    plant_users.write(folder, [topology.gate("l1"), topology.gate("l2")], "amqps://a:5671,amqps://b:5671")
    assert (folder / "gate.url").read_text() == before
    document = json.loads((folder / plant_users.FILE).read_text())
    assert {queue["name"] for queue in document["queues"]} == {"patchline.gate.l1", "patchline.gate.l2"}
    assert set(definitions.PERMISSIONS) == {user["name"] for user in document["users"]}


@pytest.fixture
def locked(users, plant, tmp_path, servers):
    """A plant whose processes use their own user, from a file, and make no queues."""
    folder = tmp_path / "plant"
    subprocess.run(["cp", "-a", str(plant), str(folder)], check=True)
    text = (folder / "config.yaml").read_text().replace("broker: {", "broker: {make_queues: false, ")
    (folder / "config.yaml").write_text(text)
    return SimpleNamespace(folder=folder, users=users, redis=servers.redis_url)


def command(locked, user, *arguments, **more):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PATCHLINE_")}
    environment |= {"PATCHLINE_AMQP_URL_FILE": str(locked.users / f"{user}.url"), "PATCHLINE_REDIS_URL": locked.redis}
    whole = [sys.executable, "-m", "patchline", *arguments, "--config", str(locked.folder / "config.yaml")]
    return subprocess.Popen(whole, env=environment, text=True, **more)


def test_a_line_of_three_users_works_and_no_secret_shows(locked, texture_folder, tmp_path):
    (port,) = server.free_ports(1)
    files = {name: (tmp_path / name).open("w+") for name in ("worker", "gate", "publisher")}
    say = {name: {"stdout": file, "stderr": file} for name, file in files.items()}
    gate = command(locked, "gate", "gate", "--line", "l1", **say["gate"])
    worker = command(locked, "worker", "worker", "--metrics-port", str(port), **say["worker"])
    images = sorted((texture_folder / "test" / "good").glob("*.png"))[:3]
    publish = ("publish", "--line", "l1", "--category", "brick", *map(str, images))
    assert command(locked, "publisher", *publish, **say["publisher"]).wait(40) == 0
    wait_for(lambda: (tmp_path / "gate").read_text().count('"action"') == len(images))
    arguments = " ".join(psutil.Process(worker.pid).cmdline())
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    listening = {each.laddr.ip for each in psutil.Process(worker.pid).net_connections() if each.status == "LISTEN"}
    for process in (worker, gate):
        process.terminate()
        assert process.wait(30) == 0
    said = [(tmp_path / name).read_text() for name in files]
    for file in files.values():
        file.close()
    assert listening == {"127.0.0.1"}
    for user in definitions.PERMISSIONS:
        secret = url(locked.users, user).split(":")[2].split("@")[0]
        assert not any(secret in text for text in [arguments, metrics, *said])


def test_a_user_who_may_not_make_queues_is_told_what_to_do(users):
    with RabbitBroker(url(users, "worker")) as broker:
        settings = config.Config.model_validate({"categories": {"c": _category()}})
        with pytest.raises(TopologyMismatch, match="make_queues"):
            broker.declare(connections.plant(settings))


def _category():
    return {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}


def test_a_password_in_the_configuration_is_refused_without_being_quoted(locked):
    text = (locked.folder / "config.yaml").read_text().replace("broker: {", "broker: {url: 'amqp://u:hunter2@h', ")
    (locked.folder / "config.yaml").write_text(text)
    process = command(locked, "worker", "worker", stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 2
    assert "contains a password" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("line", ["../../tmp/x", "a/b", "a.b", ""])
def test_a_line_whose_name_would_leave_the_folder_is_refused(locked, texture_folder, line):
    for arguments in (
        ("gate", "--line", line),
        ("publish", "--line", line, "--category", "brick", str(texture_folder)),
    ):
        process = command(locked, "gate", *arguments, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=40)
        assert process.returncode == 2
        assert "letters" in said


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, a server's certificate for 127.0.0.1, one for another host, and a second authority."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ours", "theirs"):
        trustme.CA().cert_pem.write_to_path(folder / f"{name}.pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ours.pem")
    for host in ("127.0.0.1", "elsewhere.example"):
        issued = authority.issue_cert(host)
        issued.private_key_pem.write_to_path(folder / f"{host}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{host}.pem")
    return folder


@pytest.fixture(scope="module")
def encrypted(certificates):
    """RabbitMQ with two TLS listeners' worth of nodes: one of the right name, one of another's; and Redis."""
    with private_servers.temporary_folder() as home:
        ports = server.free_ports(3)
        nodes = {}
        for host, port in zip(("127.0.0.1", "elsewhere.example"), ports, strict=False):
            more = f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.verify = verify_none\n" + "".join(
                f"ssl_options.{key} = {certificates / file}\n"
                for key, file in {"cacertfile": "ours.pem", "certfile": f"{host}.pem", "keyfile": f"{host}.key"}.items()
            )
            nodes[host] = private_servers.rabbitmq(home / host, more)
        tls = ["--port", "0", "--tls-port", str(ports[2]), "--tls-auth-clients", "no"]
        tls += ["--tls-cert-file", str(certificates / "127.0.0.1.pem"), "--tls-key-file"]
        tls += [str(certificates / "127.0.0.1.key"), "--tls-ca-cert-file", str(certificates / "ours.pem")]
        redis, _ = private_servers.redis(home / "redis", *tls)
        redis.is_ready = lambda: server.is_listening(ports[2])
        with private_servers.start_all([*(node.server for node in nodes.values()), redis]):
            yield SimpleNamespace(
                amqp=f"amqps://guest:guest@127.0.0.1:{ports[0]}",
                of_another_host=f"amqps://guest:guest@127.0.0.1:{ports[1]}",
                redis=f"rediss://127.0.0.1:{ports[2]}/0",
                plain=nodes["127.0.0.1"].url,
            )


def test_a_worker_over_tls_judges_and_remembers(encrypted, certificates, plant, tmp_path, texture_folder):
    folder = tmp_path / "plant"
    subprocess.run(["cp", "-a", str(plant), str(folder)], check=True)
    trusting = f"ca_file: {certificates / 'ours.pem'}"
    text = (folder / "config.yaml").read_text().replace("broker: {", f"broker: {{{trusting}, ")
    (folder / "config.yaml").write_text(f"redis: {{{trusting}, timeout_s: 2.0}}\n{text}")
    with ExitStack() as stack:
        line = Line(folder, SimpleNamespace(amqp_url=encrypted.plain, redis_url=encrypted.redis), stack)
        worker = line.worker("--device", "cpu", PATCHLINE_AMQP_URL=encrypted.amqp)
        line.send(next((texture_folder / "test" / "good").glob("*.png")).read_bytes(), "over-tls")
        (verdict,) = line.verdicts(1)
        assert verdict.job_id == "over-tls"
        assert line.metric(worker.metrics_port, "patchline_redis_failures_total") == 0


@pytest.mark.parametrize("trusted", ["theirs.pem", None])
def test_a_broker_whose_authority_is_not_trusted_gets_nothing(encrypted, certificates, trusted):
    with RabbitBroker(encrypted.amqp, ca_file=trusted and certificates / trusted) as broker:
        with pytest.raises(BrokerError, match="cannot be used"):
            broker.declare(topology.gate("l1"))
        with pytest.raises(NotConfirmed):
            broker.publish(topology.JOBS, "l1.brick", Message(b"secret"), timeout_s=2.0)


def test_a_broker_with_the_certificate_of_another_host_gets_nothing(encrypted, certificates):
    trusted = certificates / "ours.pem"
    with RabbitBroker(encrypted.of_another_host, ca_file=trusted) as broker, pytest.raises(BrokerError, match="used"):
        broker.declare(topology.gate("l1"))


def test_a_file_without_certificates_is_named(encrypted, tmp_path):
    with pytest.raises(BrokerError, match=r"missing\.pem"):
        RabbitBroker(encrypted.amqp, ca_file=tmp_path / "missing.pem")
