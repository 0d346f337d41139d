"""Three nodes with the configuration of `deploy/kubernetes/base/rabbitmq.conf`, except for their names."""

import json
import re
import time
from contextlib import closing, suppress
from pathlib import Path

import pika
import psutil
import pytest
from structlog.testing import capture_logs

from patchline.broker.base import Message, NotConfirmed
from patchline.broker.rabbitmq import RabbitBroker
from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.services import private_servers, server
from tests.queues import has_leader, leaders_on_record
from tests.system.conftest import wait_for
from tests.system.mqtt_line import version
from tests.system.prometheus import firing_alerts, query

pytestmark = pytest.mark.timeout(180)
CONF = Path("deploy/kubernetes/base/rabbitmq.conf")
RULES = Path("deploy/prometheus/patchline.rules.yml")
GATE_QUEUE = topology.gate_queue("press-3", "g")
READY = f'rabbitmq_detailed_queue_messages_ready{{queue="{GATE_QUEUE}"}}'


def conf_with_names(names):
    """Return the committed configuration with other node names and a lower limit of free disk space."""
    text = CONF.read_text()
    committed_names = re.findall(r"^cluster_formation\.classic_config\.nodes\.\d = (.*)$", text, re.M)
    assert len(committed_names) == len(names) == 3
    for old, new in zip(committed_names, names, strict=True):
        text = text.replace(old, new)
    return text.replace("disk_free_limit.absolute = 2GB", "disk_free_limit.absolute = 50MB")


def peers(names):
    """Return the lines with which nodes that start at the same time find one another."""
    lines = [f"cluster_formation.classic_config.nodes.{number} = {name}" for number, name in enumerate(names, 1)]
    return "\n".join(["cluster_formation.peer_discovery_backend = classic_config", *lines, ""])


def ready_messages(node):
    """Return the number of messages of each queue that is not empty."""
    listing = json.loads(
        private_servers.rabbitmqctl(node, "--formatter", "json", "list_queues", "name", "messages_ready")
    )
    return {queue["name"]: queue["messages_ready"] for queue in listing if queue["messages_ready"]}


def test_three_nodes_form_a_cluster_with_every_queue_on_all_of_them(tmp_path):
    with private_servers.temporary_folder() as home:
        name_server, nodes = private_servers.cluster(home / "cluster", 3, conf_with_names)
        with private_servers.start_all([name_server]), private_servers.start_all([node.server for node in nodes]):
            private_servers.rabbitmqctl(nodes[0], "await_online_nodes", "3")
            topologies = [
                topology.plant(["gasket"], 100, 10**9, 100, 100),
                topology.gate("press-3", ["g"]),
                topology.traces(),
            ]
            addresses = ",".join(f"amqp://127.0.0.1:{node.port}" for node in nodes)
            plant_users.write(tmp_path, topologies, addresses)
            private_servers.rabbitmqctl(nodes[0], "import_definitions", str(tmp_path / "definitions.json"))
            listing = private_servers.rabbitmqctl(nodes[1], "--formatter", "json", "list_queues", "name", "members")
            members = {queue["name"]: len(queue["members"]) for queue in json.loads(listing)}
            assert members == dict.fromkeys((queue.name for part in topologies for queue in part.queues), 3)
            private_servers.rabbitmqctl(
                nodes[2], "await_online_quorum_plus_one", "--timeout", "60", tool="rabbitmq-upgrade"
            )
            nodes[0].server.stop()
            with RabbitBroker((tmp_path / "publisher.url").read_text().strip()) as publisher:
                publisher.publish(topology.JOBS, "press-3.gasket", Message(b"x", "job-1", "t", None, {}))
            wait_for(lambda: ready_messages(nodes[1]) == {topology.category_queue(topology.JOBS, "gasket"): 1})


def kill(node):
    """Kill the Erlang virtual machine of a node."""
    for process in psutil.Process(node.server.guard.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # the node's short-lived children
            if process.name() == "beam.smp":
                process.kill()


def try_to_publish(publisher):
    """Publish a message. Return True if it was confirmed."""
    try:
        part = Message(b"{}", "part-1", "t", None, {})
        publisher.publish(topology.PARTS, "press-3", part, mandatory=False, timeout_s=5.0)
    except NotConfirmed:
        return False
    return True


@pytest.fixture(scope="module")
def cluster():
    """The nodes of a cluster, which take long to start. A test may leave some of them killed."""
    with private_servers.temporary_folder() as home:
        name_server, nodes = private_servers.cluster(home / "cluster", 3, peers)
        with private_servers.start_all([name_server, *(node.server for node in nodes)]):
            private_servers.rabbitmqctl(nodes[0], "await_online_nodes", "3")
            yield nodes


@pytest.fixture
def nodes(cluster):
    """The nodes of the cluster, all of which run, without the queue of an earlier test."""
    for node in cluster:
        if not server.speaks_amqp(node.port):
            node.server.stop()
            node.server.start()
            node.server.wait()
    with closing(pika.BlockingConnection(pika.URLParameters(cluster[0].url))) as connection:
        connection.channel().queue_delete(GATE_QUEUE)
    return cluster


def test_a_publisher_recovers_from_a_channel_that_was_opened_during_a_leader_election(nodes):
    with RabbitBroker(nodes[0].url) as first:
        first.declare(topology.gate("press-3", ["g"]))
    with RabbitBroker(nodes[1].url) as publisher:
        wait_for(lambda: publisher.connected)
        kill(nodes[0])
        time.sleep(0.02)  # the other nodes have lost their leader and not elected a new one yet
        try_to_publish(publisher)  # not confirmed, unless the election is unusually fast
        wait_for(lambda: try_to_publish(publisher))


def test_a_queue_without_a_leader_is_alerted_and_serves_again_once_a_node_is_back(nodes, tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text(RULES.read_text().replace("for: 1m", "for: 1s"))
    targets = {"rabbitmq": [node.metrics_port for node in nodes]}
    prometheus, url = private_servers.prometheus(tmp_path / "prometheus", targets, rules)
    with private_servers.start_all([prometheus]), RabbitBroker(",".join(node.url for node in nodes)) as broker:
        broker.declare(topology.gate("press-3", ["g"]))
        wait_for(lambda: try_to_publish(broker))
        wait_for(lambda: query(url, READY) == [1])
        assert has_leader(nodes[2], GATE_QUEUE)
        # Without the minute of the alert, it fires between the first terms and the first numbers of messages.
        wait_for(lambda: "PatchlineQueueWithoutLeader" not in firing_alerts(url))
        kill(nodes[0])
        kill(nodes[1])
        wait_for(lambda: "PatchlineQueueWithoutLeader" in firing_alerts(url))
        assert not has_leader(nodes[2], GATE_QUEUE)
        assert not try_to_publish(broker)
        nodes[0].server.stop()
        nodes[0].server.start()
        nodes[0].server.wait()
        wait_for(lambda: try_to_publish(broker))
        wait_for(lambda: sum(query(url, READY)) >= 2)  # the one that was not confirmed may be there, too
        wait_for(lambda: "PatchlineQueueWithoutLeader" not in firing_alerts(url))


def test_a_gate_reads_its_queue_although_rabbitmq_still_counts_the_consumer_of_a_lost_node(nodes):
    with RabbitBroker(nodes[0].url) as lost, RabbitBroker(nodes[1].url) as broker:
        broker.declare(topology.gate("press-3", ["g"]))
        former = lost.consume(GATE_QUEUE, 10, exclusive=True)
        wait_for(lambda: former.subscribed)
        kill(nodes[0])
        gate = broker.consume(GATE_QUEUE, 10, exclusive=True)
        wait_for(lambda: gate.occupied)
        wait_for(lambda: try_to_publish(broker))
        delivery = gate.take(60.0)
        assert delivery.message.message_id == "part-1"
        delivery.ack()


def forget_the_leader(node, dead):
    """Have the record that one node keeps of the gate's queue name a dead leader. The other nodes keep theirs."""
    queue = f'rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{GATE_QUEUE}">>))'
    record = f"amqqueue:set_pid(Queue, {{Name, '{dead.name}'}})"
    code = f"{{ok, Queue}} = {queue}, {{Name, _}} = amqqueue:get_pid(Queue), ets:insert(rabbit_queue, {record})."
    private_servers.rabbitmqctl(node, "eval", code)


@pytest.mark.timeout(240)
def test_a_publisher_leaves_a_node_that_refuses_each_message_because_its_record_names_a_dead_leader(nodes):
    if version(nodes[0].url) >= (4, 0):
        pytest.skip("RabbitMQ 4 asks the other members of the queue")
    urls = ",".join(node.url for node in (nodes[2], nodes[1]))
    with RabbitBroker(nodes[0].url) as first:
        first.declare(topology.gate("press-3", ["g"]))
    kill(nodes[0])
    with RabbitBroker(nodes[1].url) as other:
        wait_for(lambda: try_to_publish(other))
    living = {nodes[1].name, nodes[2].name}
    wait_for(lambda: leaders_on_record(nodes[2])[GATE_QUEUE] in living)  # a leader that already serves writes it later
    forget_the_leader(nodes[2], nodes[0])
    with RabbitBroker(nodes[2].url) as alone, capture_logs() as logs, RabbitBroker(urls) as publisher:
        wait_for(lambda: alone.connected and publisher.connected)
        for _ in range(5):
            assert not try_to_publish(publisher)
        wait_for(lambda: try_to_publish(publisher))
        assert not try_to_publish(alone)  # the node has not mended its record
    assert [log["port"] for log in logs if log["event"] == "connected to RabbitMQ"][-1] == nodes[1].port
