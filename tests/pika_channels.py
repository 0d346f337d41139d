"""Channels of pika without a connection: RabbitMQ answers when the test says so."""

from types import SimpleNamespace

from pika import frame, spec
from pika.callback import CallbackManager
from pika.channel import Channel


class Connection:
    """What a channel of pika needs of its connection."""

    is_open = publisher_confirms = basic_nack = True
    is_closed = False

    def __init__(self):
        self.callbacks = CallbackManager()
        self.ioloop = SimpleNamespace(call_later=lambda after_s, call: self.timers.append((after_s, call)))
        self.timers, self.channels, self.sent = [], [], []

    def _send_method(self, number, method, *_):
        self.sent.append((number, method.NAME))

    def channel(self, on_open_callback):
        self.channels.append(Channel(self, len(self.channels) + 1, on_open_callback))
        self.channels[-1].open()
        self.answer(spec.Channel.OpenOk())
        return self.channels[-1]

    def close(self):
        """Close all channels first, as pika does. RabbitMQ has not answered yet."""
        for channel in self.channels:
            if channel.is_open:
                channel.close()
        self.is_open = False

    def answer(self, method, channel=None):
        number = len(self.channels) if channel is None else channel
        self.callbacks.process(number, method, self, frame.Method(number, method))

    def time_is_over(self, after_s):
        """Call what was to be called after so many seconds, if the last such call is due."""
        [call for seconds, call in self.timers if seconds == after_s][-1]()
