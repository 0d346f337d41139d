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
