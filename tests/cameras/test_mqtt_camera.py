"""Cameras that send their pictures by MQTT to RabbitMQ's plug-in, with MQTT 3.1.1 and, from RabbitMQ 3.13 on, 5."""

import json
import re
from collections import Counter
from pathlib import Path

import pika
import pytest
import trustme
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from docs.examples import mqtt_camera
from patchline.gate.instance import default_name
from patchline.protocol import messages, topology
from patchline.protocol.errors import Reason
from patchline.runtime import connections
from patchline.services import private_servers, server
from tests.system.conftest import wait_for
from tests.system.mqtt_brokers import RabbitMq
from tests.system.mqtt_line import (
    PATIENCE_S,
    TOPIC,
    Peer,
    assert_none_lost,
    mqtt_line,
    run_over_restarts,
    version,
)

pytestmark = pytest.mark.timeout(240)
QUEUE, BINDING = topology.mqtt_queue("l1"), "cameras.l1.#"
NO_SUBSCRIBERS, REFUSED = 16, 131  # reason codes of MQTT 5


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    broker = RabbitMq(tmp_path_factory.mktemp("rabbitmq") / "node")
    yield broker
    broker.stop()


@pytest.fixture
def line(plant, tmp_path, broker, servers):
    with mqtt_line(plant, tmp_path / "line", broker, servers.redis_url) as line:
        yield line
        line.line.messages(topology.DEAD, 100, 0.3)
    with pika.BlockingConnection(pika.URLParameters(broker.node.url)) as connection:
        connection.channel().queue_delete(QUEUE)


@pytest.fixture
def peer(broker):
    peers = []

    def connect(v5=False, **login):
        if v5 and version(broker.node.url) < (3, 13):
            pytest.skip("this RabbitMQ does not speak MQTT 5")
        peers.append(Peer(broker.url, v5, **login))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()


@pytest.fixture(params=["MQTT 3.1.1", "MQTT 5"])
def v5(request, broker):
    if request.param == "MQTT 5" and version(broker.node.url) < (3, 13):
        pytest.skip("this RabbitMQ does not speak MQTT 5")
    return request.param == "MQTT 5"


@pytest.fixture
def images(texture_folder):
    return [path.read_bytes() for path in sorted((texture_folder / "test").glob("*/*.png"))]


def test_no_picture_is_lost_over_a_restart_and_each_is_acted_on_once(line, images, v5):
    result = run_over_restarts(line, images, 300, 30, [(0.4, True)], v5)
    assert_none_lost(result)


def properties(content_type=None, **user):
    made = Properties(PacketTypes.PUBLISH)
    made.UserProperty = list(user.items())
    made.ContentType = content_type
    return made


def test_user_properties_name_the_part(line, images, peer):
    device = peer(v5=True)
    line.camera("cams/{line}")
    said = {"category": "brick", "part_id": "p:7", "number": "7", "encoder_count": "-5"}
    assert device.publish("cams/l1", images[0], properties("image/png", **said)) == [0]
    (message,) = line.line.messages(topology.category_queue(topology.JOBS, "brick"), 1)
    job = messages.parse_job(message)
    assert (job.part_id, job.number, job.encoder_count, job.content_type) == ("p:7", 7, -5, "image/png")
    assert message.body == images[0]


def test_what_is_no_picture_of_a_part_has_a_verdict_or_a_dead_letter(line, images, peer):
    line.patchline("worker", "worker", "--metrics-port", "0")
    camera, device, now = line.camera(), peer(), connections.now_ms()
    device.publish(f"cameras/l1/brick/large/{now}", images[0] + bytes(16_000_001))
    device.publish(f"cameras/l1/brick/text/{now}", b'{"temperature": 41}')
    device.publish("cameras/l1/brick", b"no part")
    device.publish(f"cameras/l1/vase/p7/{now}", images[0])
    verdicts = {verdict.part_id: verdict for verdict in line.line.verdicts(2)}
    assert {part: verdict.reason for part, verdict in verdicts.items()} == {
        "large": Reason.NO_IMAGE,
        "text": Reason.UNSUPPORTED_CONTENT_TYPE,
    }
    assert "images.max_bytes is 16000000" in verdicts["large"].detail
    listed = [json.loads(text) for text in line.line.run("dead-letters", "list").out.splitlines()]
    reasons = {letter["category"]: letter["reason"] for letter in listed}
    assert Counter(letter["stage"] for letter in listed)["mqtt"] == 2
    assert reasons["vase"] == "unknown_category"
    assert reasons["unknown"] == "malformed_message"
    assert line.line.metric(camera.metrics_port, "patchline_mqtt_refused_total") == 4
    assert device.answers() == [0] * 4, "it may go on"


def test_an_announced_part_is_known_before_its_picture(line, images, peer):
    line.camera()
    device, now, known = peer(), connections.now_ms(), {}
    topic = f"cameras/l1/brick/p7/{now}"

    def is_known():  # earlier tests may have left other parts, and verdicts
        for message in line.line.messages(topology.gate_queue("l1", default_name()), 9, 0.2):
            if message.type == messages.PART_TYPE:
                part = messages.parse_announcement(message)
                known[part.captured_at] = part.job_id
        return now in known

    device.publish(topic, b"")
    wait_for(is_known)
    device.publish(topic, images[0])
    (job,) = map(messages.parse_job, line.line.messages(topology.category_queue(topology.JOBS, "brick"), 1))
    assert (job.job_id, job.part_id) == (known[now], "p7")


def test_a_picture_that_waited_while_no_process_ran_is_late_unless_its_device_says_when(line, images, peer):
    camera, device = line.camera("cams/{line}", "--category", "brick"), peer()
    camera.kill()
    camera.wait()
    device.publish("cams/l1", images[0])
    line.camera("cams/{line}", "--category", "brick")
    (late,) = line.line.messages(topology.category_queue(topology.BACKLOG, "brick"), 1)
    device.publish("cams/l1", images[1])
    (fresh,) = line.line.messages(topology.category_queue(topology.JOBS, "brick"), 1)
    assert (late.body, fresh.body) == (images[0], images[1])


def test_a_full_queue_drops_the_oldest_and_silences_no_device(line, peer, images, v5):
    line.line.broker.declare(topology.mqtt("l1", BINDING, 3 * len(images[0])))
    device = peer(v5)
    for number in range(20):
        answers = device.publish(f"cameras/l1/brick/{number}/1", images[0])
    assert answers == [0] * 20
    kept = []
    wait_for(lambda: kept.extend(line.line.deliveries(QUEUE, 20, 0.2)) or kept)
    kept += line.line.deliveries(QUEUE, 20, 1.0)
    assert kept[-1].routing_key.split(".")[3] == "19"
    assert len(kept) <= 4


def parts(line, queue):
    """The part ids of what arrives in a queue within a second."""
    return {delivery.routing_key.split(".")[3] for delivery in line.line.deliveries(queue, 100, 1.0)}


def declare(broker, queue, key, **arguments):
    """Make a queue of one test. It is deleted with its connection, which is returned."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.node.url))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", **arguments})
    channel.queue_bind(queue, topology.MQTT_EXCHANGE, key)
    return connection


def test_a_queue_that_refused_would_silence_devices(broker, v5):
    """Why ours does not: RabbitMQ 3.10 closes the connection, 4.0 tells MQTT 5, and never answers MQTT 3.1.1."""
    name, limits = f"refusing-{v5}", {"x-max-length": 1, "x-overflow": "reject-publish"}
    connection = declare(broker, name, f"{name}.#", **limits)
    device = Peer(broker.url, v5)
    answers = [device.publish(f"{name}/x", b"%d" % number) for number in range(6)][-1]
    if version(broker.node.url) < (3, 13):
        assert answers[-1] == "disconnect"
    elif v5:
        assert answers[-1] == REFUSED
    else:
        assert len(answers) < 6
        assert set(answers) == {0}
    device.close()
    connection.channel().queue_delete(name)
    connection.close()


def test_the_program_of_the_example_keeps_what_a_queue_refuses(line, broker, images, v5):
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    connection = declare(broker, "small", BINDING, **limits)
    for number in range(4):
        mqtt_camera.save(line.folder / "pictures", f"p{number}", images[number])
    line.device(*(["--v5"] if v5 else []))
    # RabbitMQ 3.10 closes the connection when it refuses the second one, perhaps before it has confirmed the first.
    wait_for(lambda: line.waiting() < 4 or "connection lost" in (line.folder / "device.out").read_text(), PATIENCE_S)
    try:
        arrived = set()
        wait_for(lambda: arrived.update(parts(line, "small")) or line.waiting() == 0, PATIENCE_S)
        assert arrived | parts(line, "small") == {"p0", "p1", "p2", "p3"}
    finally:
        connection.channel().queue_delete("small")
        connection.close()


def test_the_program_of_the_example_says_that_its_password_is_refused(line, broker):
    line.device(url=broker.url.replace("guest:guest", "guest:sesame"))
    said = line.folder / "device.out"
    wait_for(lambda: "the broker refuses the connection" in said.read_text(), PATIENCE_S)
    assert "check user and password of the url, connecting again" in said.read_text()
    assert "sesame" not in said.read_text()


def test_a_message_for_which_no_queue_is_bound_is_confirmed_and_lost(peer, v5):
    """Why marks watch the binding, and why it must be there before a device sends. MQTT 5 tells the device."""
    assert peer(v5).publish("nobody/listens", b"x") == [NO_SUBSCRIBERS if v5 else 0]


@pytest.mark.parametrize("makes_queues", [True, False])
def test_a_binding_that_is_gone_is_said_and_made_again_if_it_may_be(line, broker, makes_queues):
    line.line.broker.declare(topology.mqtt("l1", BINDING, line.line.settings.broker.mqtt_max_bytes))
    line.set_broker(f"make_queues: {str(makes_queues).lower()}")
    camera = line.camera()
    bound = lambda: line.line.metric(camera.metrics_port, "patchline_mqtt_bound")  # noqa: E731
    assert bound() == 1
    with pika.BlockingConnection(pika.URLParameters(broker.node.url)) as connection:
        connection.channel().queue_unbind(QUEUE, topology.MQTT_EXCHANGE, BINDING)
        wait_for(lambda: "RabbitMQ drops what devices send" in line.log())
        if not makes_queues:
            assert bound() == 0
            connection.channel().queue_bind(QUEUE, topology.MQTT_EXCHANGE, BINDING)
        wait_for(lambda: bound() == 1)
    camera.terminate()
    assert camera.wait(30) == 0


@pytest.fixture
def users(line, broker, tmp_path):
    """The files with the urls of a plant with devices."""
    words = ["topology", "--line", "l1", "--mqtt", TOPIC, "--definitions", str(tmp_path / "users")]
    made = line.line.run(*words, "--address", broker.node.url.replace("guest:guest@", ""))
    assert made.returncode == 0, made.err
    private_servers.rabbitmqctl(broker.node, "import_definitions", str(tmp_path / "users" / "definitions.json"))
    return tmp_path / "users"


def login(url):
    return dict(zip(("user", "password"), re.match(r"mqtt://(.*?):(.*?)@", url).groups(), strict=True))


def test_a_device_publishes_to_the_topics_of_its_line_and_does_nothing_else(line, users, peer, images, v5):
    device_login = login((users / "device-l1.url").read_text())
    topic = f"cameras/l1/brick/p7/{connections.now_ms()}"
    line.line.environment = {"PATCHLINE_AMQP_URL_FILE": str(users / "camera.url")}
    line.set_broker("make_queues: false")
    line.camera()
    assert peer(**device_login).publish(topic, images[0]) == [0]
    (message,) = line.line.messages(topology.category_queue(topology.JOBS, "brick"), 1)
    assert message.body == images[0]
    for other in ("cameras/l2/brick/p7/1", "cameras/l1/brick", "patchline/l1/act", topic + "x" * 20):
        device = peer(v5, **device_login)
        device.publish(other, b"x")
        wait_for(lambda device=device: device.events[-1] == "disconnect")
        assert device.events[1:] == ["disconnect"]
    reader = peer(**device_login)
    reader.client.subscribe("cameras/#")
    wait_for(lambda: len(reader.events) > 1)
    assert reader.events[1] in ("disconnect", "subscribe Unspecified error", "subscribe Not authorized")


def test_a_device_speaks_tls_with_the_listener_of_deploy(plant, tmp_path, servers, images):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    (port,) = server.free_ports(1)
    shipped = Path("deploy/rabbitmq/mqtt.conf").read_text().replace("/etc/rabbitmq", str(tmp_path))
    secure = RabbitMq(tmp_path / "node", shipped.replace("default = 8883", f"1 = 127.0.0.1:{port}"), port)
    try:
        with mqtt_line(plant, tmp_path / "line", secure, servers.redis_url) as line:
            line.camera()
            line.device("--ca-file", str(tmp_path / "authority.pem"), scheme="mqtts")
            mqtt_camera.save(line.folder / "pictures", "p7", images[0])
            (message,) = line.line.messages(topology.category_queue(topology.JOBS, "brick"), 1)
            assert message.body == images[0]
            wait_for(lambda: line.waiting() == 0)
    finally:
        secure.stop()
