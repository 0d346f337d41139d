"""How the connection to RabbitMQ reads."""

import socket
from contextlib import closing
from types import SimpleNamespace

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

from patchline.broker.rabbitmq import RabbitBroker


def test_what_has_arrived_is_read_at_once():
    assert RabbitBroker  # its file tells pika how much to read, by a name that an update of pika may change
    ours, theirs = socket.socketpair()
    received = []
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        theirs.sendall(bytes(100_000))
        loop = SimpleNamespace(set_reader=lambda *_: None)
        _AsyncPlaintextTransport(ours, SimpleNamespace(data_received=received.append), loop)._on_socket_readable()
    assert list(map(len, received)) == [100_000]
