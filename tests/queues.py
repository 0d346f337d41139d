"""The queues of the category that most tests use, and the state of a queue in a cluster."""

import json

from patchline.protocol import topology
from patchline.services import private_servers

CATEGORY = "brick"
JOBS_QUEUE = topology.category_queue(topology.JOBS, CATEGORY)
BACKLOG_QUEUE = topology.category_queue(topology.BACKLOG, CATEGORY)
SUSPECTS_QUEUE = topology.category_queue(topology.SUSPECTS, CATEGORY)


def has_leader(node, queue):
    """Return whether a member of a quorum queue leads it, as a node of the cluster sees it."""
    command = ["--formatter", "json", "quorum_status", queue]
    members = json.loads(private_servers.rabbitmqctl(node, *command, tool="rabbitmq-queues"))
    return any(member["Raft State"] == "leader" for member in members)


def leaders_on_record(node):
    """Return the leaders' nodes by queue, as RabbitMQ's metadata say; an empty name if such a leader does not live.

    Channels publish to this one (decision 113).
    """
    queues = json.loads(private_servers.rabbitmqctl(node, "--formatter", "json", "list_queues", "name", "leader"))
    return {queue["name"]: queue["leader"] for queue in queues}


def state_of_queues(node):
    """Return the lengths and consumers of all queues, and where the channels of a node wait inside of a call."""
    columns = ("name", "messages_ready", "messages_unacknowledged", "consumers")
    lengths = private_servers.rabbitmqctl(node, "list_queues", *columns)
    return lengths + private_servers.rabbitmqctl(node, "eval", _WAITING_CHANNELS)


# An idle channel waits in gen_server2 itself.
_WAITING_CHANNELS = """[{Channel, Stack} || Channel <- rabbit_channel:list_local(),
    {current_stacktrace, [{Module, _, _, _} | _] = Stack} <- [process_info(Channel, current_stacktrace)],
    Module =/= gen_server2]."""
