"""The messages of a gate to the others, on a broker whose confirmations come when the test says so."""

from concurrent.futures import Future

from patchline.broker.base import NotConfirmed
from patchline.gate import outbox
from patchline.gate.outbox import Outbox
from patchline.protocol.gate_messages import Act, Action, ActState, ConfirmationRecord, Snapshot

NOW_MS = 1_800_000_000_000


class SlowBroker:
    def __init__(self):
        self.published, self.connected = [], True

    def publish_nowait(self, outgoing):
        self.published.append((outgoing[0].message.body, Future()))
        return self.published[-1][1]


def snapshot(number):
    return Snapshot(gate="g", sent_at=NOW_MS + number)


def new_outbox(broker):
    woken = []
    box = Outbox(broker, "l", lambda: woken.append(True))
    return box, woken


def sent(broker):
    return [Snapshot.model_validate_json(body).sent_at - NOW_MS for body, _ in broker.published]


def test_messages_are_sent_at_once_and_dropped_when_they_are_confirmed():
    broker = SlowBroker()
    box, woken = new_outbox(broker)
    box.open()
    box.add(snapshot(1))
    box.add(snapshot(2))
    assert sent(broker) == [1, 2]
    broker.published[0][1].set_result(None)
    assert woken
    box.flush(retry=False)
    assert len(box) == 1


def test_what_was_not_confirmed_is_sent_again_and_what_may_still_arrive_is_not():
    broker = SlowBroker()
    box, _ = new_outbox(broker)
    box.open()
    for number in (1, 2, 3):
        box.add(snapshot(number))
    broker.published[1][1].set_exception(NotConfirmed("lost"))
    box.flush(retry=False)
    broker.connected = False
    box.flush(retry=True)
    assert sent(broker) == [1, 2, 3]
    broker.connected = True
    box.flush(retry=True)
    assert sent(broker) == [1, 2, 3, 2]
    for _, confirmation in (broker.published[0], *broker.published[2:]):
        confirmation.set_result(None)
    box.flush(retry=True)
    assert len(box) == 0


def test_an_act_that_is_done_is_told_once_rabbitmq_has_confirmed_it():
    broker = SlowBroker()
    box, _ = new_outbox(broker)
    box.open()
    fields = {"job_id": "j", "line": "l", "category": "c", "part_id": "p", "because": "pass", "acted_at": NOW_MS}
    acts = [Act(**fields, action=Action.ACCEPT, gate="g", state=state) for state in ActState]
    for act in acts:
        box.add(act)
    box.flush(retry=True)
    assert box.take_told() == []
    for _, confirmation in broker.published:
        confirmation.set_result(None)
    box.flush(retry=True)
    assert box.take_told() == [act for act in acts if act.state is ActState.DONE]
    assert box.take_told() == []


def test_messages_wait_for_the_exchanges():
    broker = SlowBroker()
    box, _ = new_outbox(broker)
    box.add(snapshot(1))
    box.flush(retry=True)
    assert broker.published == []
    box.open()
    box.flush(retry=True)
    assert sent(broker) == [1]


def test_the_oldest_message_is_dropped_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(outbox, "_MAX_UNSENT", 2)
    broker = SlowBroker()
    box, _ = new_outbox(broker)
    box.open()
    for number in (1, 2, 3):
        box.add(snapshot(number))
    assert len(box) == 2
    assert broker.published[0][1].cancelled()


def test_confirmations_go_to_a_key_of_their_own_and_displace_no_act(monkeypatch):
    monkeypatch.setattr(outbox, "_MAX_CONFIRMATIONS_BEHIND", 2)
    box, _ = new_outbox(SlowBroker())
    seen = ConfirmationRecord(job_id="j", line="l", number=7, bin="reject", gate="g", found_at=NOW_MS)
    for message in (seen, snapshot(1), seen, snapshot(2)):
        box.add(message)
    assert [type(unsent.message) for unsent in box._unsent] == [ConfirmationRecord, Snapshot, Snapshot]
    assert outbox.to_gates("x", "l", seen).routing_key == "l.confirmed"
    assert outbox.to_gates("x", "l", snapshot(1)).routing_key == "l"
