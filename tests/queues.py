"""The queues of the category that most tests use, and the state of a queue in a cluster."""

import json

import pika

from patchline.protocol import topology
from patchline.services import private_servers

CATEGORY = "brick"
JOBS_QUEUE = topology.category_queue(topology.JOBS, CATEGORY)
BACKLOG_QUEUE = topology.category_queue(topology.BACKLOG, CATEGORY)
SUSPECTS_QUEUE = topology.category_queue(topology.SUSPECTS, CATEGORY)


def delete_if_read(url, queue):
    """Delete a queue that somebody reads. Leave one that is missing or is being made.

    RabbitMQ can keep half of a quorum queue that is deleted again while it is made again. It makes none of that name
    until it restarts (rabbitmq-server, issue 17457).
    """
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        try:
            readers = channel.queue_declare(queue, passive=True).method.consumer_count
        except pika.exceptions.ChannelClosedByBroker:
            return
        if readers:
            channel.queue_delete(queue)


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


def state_of_queues(nodes):
    """Return what living nodes of a cluster know of the queues, as text.

    The lengths and consumers of all queues, where the channels of the first node wait inside of a call, what the
    leaders' state machines hold, and whether each node confirms a message on a channel of its own. The length of a
    queue in `list_queues` is a metric of the node on record: what the state machine says is true.
    """
    columns = ("name", "messages_ready", "messages_unacknowledged", "consumers")
    texts = [private_servers.rabbitmqctl(nodes[0], "list_queues", *columns)]
    texts += [private_servers.rabbitmqctl(nodes[0], "eval", _WAITING_CHANNELS)]
    for node in nodes:
        texts += [f"{node.name}:", private_servers.rabbitmqctl(node, "eval", _STATE_MACHINES), _try_to_publish(node)]
    return "\n".join(texts)


def _try_to_publish(node):
    """Publish to the jobs on a new channel; return what comes of it."""
    try:
        with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", JOBS_QUEUE, b"asked in a test", mandatory=True)
    except (pika.exceptions.AMQPError, OSError) as error:
        return f"a message to {JOBS_QUEUE} fails: {error!r}"
    return f"a message to {JOBS_QUEUE} is confirmed"


# An idle channel waits in gen_server2 itself.
_WAITING_CHANNELS = """[{Channel, Stack} || Channel <- rabbit_channel:list_local(),
    {current_stacktrace, [{Module, _, _, _} | _] = Stack} <- [process_info(Channel, current_stacktrace)],
    Module =/= gen_server2]."""
_STATE_MACHINES = """[{Pid, catch ra:leader_query({Name, node()}, fun rabbit_fifo:overview/1, 5000)}
    || Queue <- rabbit_amqqueue:list(), amqqueue:get_type(Queue) == rabbit_quorum_queue,
    {Name, _} = Pid <- [amqqueue:get_pid(Queue)]]."""
