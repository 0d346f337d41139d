"""The messages that a broker has not confirmed yet: which tag is whose, and who is told what."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from patchline.broker.base import BrokerError, NotConfirmed, Outgoing, Refused, Unroutable


@dataclass(eq=False)
class Publication:
    """A message on its way to being confirmed; `confirmed` ends with None or with a BrokerError."""

    what: Outgoing
    confirmed: Future[None] = field(default_factory=Future)
    returned: str | None = None

    def settle(self, error: BrokerError | None) -> None:
        """Tell the waiting thread, unless it has given up."""
        if not self.confirmed.set_running_or_notify_cancel():
            return
        if error is None:
            self.confirmed.set_result(None)
        else:
            self.confirmed.set_exception(error)


class Confirms:
    """The unconfirmed publications of one channel, in the order of publishing. Used by one thread."""

    def __init__(self) -> None:
        self._published = 0
        self._unconfirmed: dict[int, Publication] = {}

    @property
    def none_waits(self) -> bool:
        """Every publication is confirmed or refused."""
        return not self._unconfirmed

    def add(self, publication: Publication) -> None:
        """The channel publishes it next: tags count from 1 (RabbitMQ's publisher confirms)."""
        self._published += 1
        self._unconfirmed[self._published] = publication

    def returned(self, exchange: str, routing_key: str, message_id: str | None, why: str) -> None:
        """A mandatory message reached no queue. A return carries no tag, but precedes its confirmation, in order."""
        for publication in self._unconfirmed.values():
            what = publication.what
            key = (what.exchange, what.routing_key, what.message.message_id)
            if publication.returned is None and key == (exchange, routing_key, message_id):
                publication.returned = why
                return

    def confirmed(self, tag: int, multiple: bool, accepted: bool) -> None:
        """The broker has accepted or refused the message of a tag, or all up to that tag."""
        tags: Iterable[int] = [known for known in self._unconfirmed if known <= tag] if multiple else [tag]
        for each in tags:
            publication = self._unconfirmed.pop(each)
            publication.settle(_outcome(publication, accepted))

    def fail_all(self, why: str) -> None:
        """The channel is gone, and with it all confirmations to come."""
        lost, self._unconfirmed = self._unconfirmed, {}
        for publication in lost.values():
            publication.settle(NotConfirmed(f"the channel closed before the confirmation: {why}"))


def _outcome(publication: Publication, accepted: bool) -> BrokerError | None:
    where = f"exchange {publication.what.exchange}, routing key {publication.what.routing_key}"
    if publication.returned is not None:
        advice = "declare the queues with: patchline topology"
        return Unroutable(f"no queue for {where} ({publication.returned}); {advice}")
    return None if accepted else Refused(f"a queue behind {where} is full, or its nodes are lost")
