"""The three nodes of `deploy/kubernetes/rabbitmq.conf`, run as they stand there but for their names."""

import json
import re
import time
from pathlib import Path

import psutil
import pytest

from patchline.broker.base import Message, NotConfirmed
from patchline.broker.rabbitmq import RabbitBroker
from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.services import private_servers
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(180)
CONF = Path("deploy/kubernetes/rabbitmq.conf")


def with_names(names):
    text = CONF.read_text()
    written = re.findall(r"^cluster_formation\.classic_config\.nodes\.\d = (.*)$", text, re.M)
    assert len(written) == len(names) == 3
    for old, new in zip(written, names, strict=True):
        text = text.replace(old, new)
    return text.replace("disk_free_limit.absolute = 2GB", "disk_free_limit.absolute = 50MB")


def waiting(node):
    listing = json.loads(
        private_servers.rabbitmqctl(node, "--formatter", "json", "list_queues", "name", "messages_ready")
    )
    return {each["name"]: each["messages_ready"] for each in listing if each["messages_ready"]}


def test_the_three_nodes_find_each_other_and_keep_every_queue_on_all_of_them(tmp_path):
    with private_servers.temporary_folder() as home:
        names, nodes = private_servers.cluster(home / "cluster", 3, with_names)
        with private_servers.start_all([names]), private_servers.start_all([node.server for node in nodes]):
            private_servers.rabbitmqctl(nodes[0], "await_online_nodes", "3")
            wanted = [topology.plant(100, 10**9, 100, 100), topology.gate("press-3"), topology.traces()]
            addresses = ",".join(f"amqp://127.0.0.1:{node.port}" for node in nodes)
            plant_users.write(tmp_path, wanted, addresses)
            private_servers.rabbitmqctl(nodes[0], "import_definitions", str(tmp_path / "definitions.json"))
            listing = private_servers.rabbitmqctl(nodes[1], "--formatter", "json", "list_queues", "name", "members")
            members = {each["name"]: len(each["members"]) for each in json.loads(listing)}
            assert members == dict.fromkeys((queue.name for each in wanted for queue in each.queues), 3)
            private_servers.rabbitmqctl(
                nodes[2], "await_online_quorum_plus_one", "--timeout", "60", tool="rabbitmq-upgrade"
            )
            nodes[0].server.stop()
            with RabbitBroker((tmp_path / "publisher.url").read_text().strip()) as publisher:
                publisher.publish(topology.JOBS, "press-3.gasket", Message(b"x", "job-1", "t", None, {}))
            wait_for(lambda: waiting(nodes[1]) == {topology.JOBS: 1})


def kill(node):
    for process in psutil.Process(node.server.guard.pid).children(recursive=True):
        if process.name() == "beam.smp":
            process.kill()


def accepted(publisher):
    try:
        part = Message(b"{}", "part-1", "t", None, {})
        publisher.publish(topology.PARTS, "press-3", part, mandatory=False, timeout_s=5.0)
    except NotConfirmed:
        return False
    return True


def test_a_channel_that_was_opened_while_a_leader_was_lost_is_not_refused_for_ever():
    with private_servers.temporary_folder() as home:
        names, nodes = private_servers.cluster(home / "cluster", 3)
        with private_servers.start_all([names, *(node.server for node in nodes)]):
            private_servers.join_cluster(nodes)
            with RabbitBroker(nodes[0].url) as first:
                first.declare(topology.gate("press-3"))
            with RabbitBroker(nodes[1].url) as publisher:
                wait_for(lambda: publisher.connected)
                kill(nodes[0])
                time.sleep(0.02)  # the others know that their leader is gone, and have no other one yet
                accepted(publisher)  # refused, but for an uncommonly quick election
                wait_for(lambda: accepted(publisher))
