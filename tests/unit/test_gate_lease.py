"""The lease of a line, with a clock and a queue of the test."""

from patchline.gate.lease import Lease, Role
from patchline.protocol.gate_messages import Ping

T = 2.0
START = 100.0


class Line:
    """Two gates and a lease queue with one active consumer. Pings arrive at once, every half second."""

    def __init__(self):
        self.now = START
        self.leases = {}
        self.active = None
        self.reachable = {}

    def start(self, name, held_last=False):
        self.leases[name] = Lease(name, f"process of {name}", T, held_last, self.now)
        self.reachable[name] = True
        self.active = self.active or name
        return self.leases[name]

    def cut(self, name):
        """RabbitMQ drops the connection of a gate; another one becomes the active consumer."""
        self.reachable[name] = False
        if self.active == name:
            self.active = next((other for other, reachable in self.reachable.items() if reachable), None)

    def ping(self, name):
        lease = self.leases[name]
        return Ping(gate=name, process=f"process of {name}", sent_at=self.now, active=lease.is_active(self.now))

    def pass_time(self, seconds):
        for _ in range(round(seconds * 2)):
            pings = [self.ping(name) for name, reachable in self.reachable.items() if reachable]
            for ping in pings:
                for name, lease in self.leases.items():
                    if self.reachable[name]:
                        lease.on_queue_ping(ping, self.now)
                if self.active is not None:
                    self.leases[self.active].on_lease_ping(ping, self.now)
            for lease in self.leases.values():
                lease.permit(self.now)
            self.now += 0.5
            assert sum(lease.is_valid(self.now) for lease in self.leases.values()) <= 1


def roles(line):
    return {name: lease.role(line.now) for name, lease in line.leases.items()}


def test_the_first_gate_acts_after_it_has_waited_and_the_second_stands_by():
    line = Line()
    line.start("a")
    line.start("b")
    line.pass_time(1.5)
    assert roles(line) == {"a": Role.STANDBY, "b": Role.STANDBY}
    line.pass_time(0.5)
    assert roles(line) == {"a": Role.SERVING, "b": Role.STANDBY}
    line.pass_time(10.0)
    assert roles(line) == {"a": Role.SERVING, "b": Role.STANDBY}


def test_a_gate_stands_by_once_it_has_heard_its_line_and_not_before():
    line = Line()
    lease = line.start("a")
    line.now += T - 0.5
    assert lease.role(line.now) is Role.STARTING
    line.pass_time(0.5)
    assert lease.role(line.now) is Role.STANDBY


def test_a_gate_that_hears_nothing_is_blind_after_a_lease():
    line = Line()
    lease = line.start("a")
    line.now += T
    assert lease.role(line.now) is Role.BLIND


def test_a_standby_takes_over_within_a_stated_time_and_never_while_the_former_holds_the_lease():
    line = Line()
    line.start("a")
    line.start("b")
    line.pass_time(5.0)
    line.cut("a")
    line.pass_time(1.5)  # checks after each step that only one lease is valid
    assert roles(line)["b"] is Role.STANDBY
    line.pass_time(0.5)
    assert roles(line) == {"a": Role.BLIND, "b": Role.SERVING}


def test_a_frozen_gate_sees_that_its_lease_is_over_before_it_acts():
    line = Line()
    lease = line.start("a")
    line.pass_time(5.0)
    assert lease.permit(line.now).accept
    line.now += T  # frozen: no ping was sent or received
    assert not lease.permit(line.now).accept


def test_a_ping_that_was_sent_before_the_freeze_and_arrives_after_it_extends_no_lease():
    line = Line()
    lease = line.start("a")
    line.pass_time(5.0)
    ping = line.ping("a")
    line.now += 10.0
    lease.on_lease_ping(ping, line.now)
    lease.on_queue_ping(ping, line.now)
    assert not lease.is_valid(line.now)


def test_a_restarted_gate_that_was_the_last_holder_acts_at_once():
    line = Line()
    line.start("a", held_last=True)
    line.pass_time(0.5)
    assert roles(line) == {"a": Role.SERVING}


def test_a_restarted_gate_waits_if_another_one_has_been_active_meanwhile():
    line = Line()
    lease = line.start("a", held_last=True)
    other = Ping(gate="b", process="b", sent_at=7.0, active=True)
    lease.on_queue_ping(other, line.now)  # lay in the queue of the restarted gate
    line.pass_time(1.5)
    assert roles(line) == {"a": Role.STANDBY}
    line.pass_time(0.5)
    assert roles(line) == {"a": Role.SERVING}


def test_without_rabbitmq_only_the_last_holder_rejects_and_nobody_accepts():
    line = Line()
    line.start("a")
    line.start("b")
    line.pass_time(5.0)
    line.cut("a")
    line.cut("b")
    line.pass_time(5.0)
    permits = {name: lease.permit(line.now) for name, lease in line.leases.items()}
    assert (permits["a"].accept, permits["a"].reject) == (False, True)
    assert (permits["b"].accept, permits["b"].reject) == (False, False)
    assert roles(line) == {"a": Role.BLIND, "b": Role.BLIND}


def test_a_gate_that_starts_without_rabbitmq_rejects_if_it_was_the_last_holder():
    line = Line()
    lease = line.start("a", held_last=True)
    line.cut("a")
    assert not lease.permit(line.now).reject  # RabbitMQ may still answer, and the verdicts may be there
    line.now += T
    assert lease.permit(line.now).reject
    assert not lease.permit(line.now).accept


def test_a_gate_with_a_partner_that_restarts_without_rabbitmq_leaves_the_parts_to_it_for_some_leases():
    """The partner may have accepted them meanwhile."""
    lease = Lease("a", "process", T, held_last=True, now=START, has_partner=True)
    assert not lease.permit(START + 4.9 * T).reject
    assert lease.permit(START + 5 * T).reject  # nobody may be there


def test_a_gate_knows_its_partner_until_it_has_not_heard_it_for_a_while():
    line = Line()
    line.start("a")
    assert not line.leases["a"].has_partner
    line.start("b")
    line.pass_time(5.0)
    assert line.leases["a"].has_partner
    line.cut("b")
    line.pass_time(50.0)
    assert line.leases["a"].has_partner
    line.pass_time(12.0)
    assert not line.leases["a"].has_partner


def test_a_gate_whose_queue_is_gone_is_blind_and_does_not_accept():
    line = Line()
    lease = line.start("a")
    line.pass_time(5.0)
    for _ in range(10):
        line.now += 0.5
        lease.on_lease_ping(line.ping("a"), line.now)
    assert lease.role(line.now) is Role.BLIND
    assert not lease.permit(line.now).accept
    assert lease.permit(line.now).reject


def test_two_gates_with_one_name_are_noticed():
    line = Line()
    lease = line.start("a")
    namesake = Ping(gate="a", process="on another host", sent_at=7.0, active=False)
    lease.on_queue_ping(namesake, line.now)
    assert not lease.has_namesake  # may have been sent by the process before this one
    line.pass_time(1.0)
    lease.on_queue_ping(namesake, line.now)
    assert lease.has_namesake


def test_a_gate_that_hears_of_another_active_gate_is_no_longer_the_last_holder():
    line = Line()
    line.start("a")
    line.start("b")
    line.pass_time(5.0)
    line.cut("a")
    line.pass_time(5.0)
    line.reachable["a"] = True
    line.pass_time(1.0)
    assert not line.leases["a"].held_last
    assert roles(line) == {"a": Role.STANDBY, "b": Role.SERVING}


def test_a_gate_whose_queue_was_lost_is_blind_until_its_next_ping():
    line = Line()
    lease = line.start("a")
    lease.on_gap(line.now)
    assert lease.role(line.now) is Role.STARTING  # it had not heard anything before
    line.pass_time(5.0)
    lease.on_gap(line.now)
    assert lease.role(line.now) is Role.BLIND
    assert (lease.permit(line.now).accept, lease.permit(line.now).reject) == (False, True)
    line.pass_time(0.5)
    assert lease.role(line.now) is Role.SERVING


def pass_time_deaf(line, seconds, current):
    """The queue of `a` is missing. `b` says in its pings whether it hears the line."""
    for _ in range(round(seconds * 2)):
        line.now += 0.5
        line.leases["a"].on_lease_ping(line.ping("a"), line.now)
        other = Ping(gate="b", process="process of b", sent_at=line.now, active=False, current=current)
        line.leases["a"].on_lease_ping(other, line.now)


def test_a_blind_gate_releases_the_lease_if_another_one_hears_the_line():
    line = Line()
    lease = line.start("a")
    line.start("b")
    line.pass_time(5.0)
    pass_time_deaf(line, 10.0, current=False)
    assert not lease.should_release(line.now)
    pass_time_deaf(line, 0.5, current=True)
    assert lease.should_release(line.now)
    lease.release()
    pass_time_deaf(line, 10.0, current=True)
    assert not lease.is_active(line.now)
    assert not lease.permit(line.now).reject
    assert not lease.should_release(line.now)


def test_a_gate_gets_time_to_make_its_queue_again_before_it_releases_the_lease():
    line = Line()
    lease = line.start("a")
    line.start("b")
    line.pass_time(5.0)
    lease.on_gap(line.now)
    pass_time_deaf(line, T - 0.5, current=True)
    assert not lease.should_release(line.now)
    pass_time_deaf(line, 0.5, current=True)
    assert lease.should_release(line.now)


def test_a_gate_that_has_released_the_lease_waits_like_a_new_one_after_it_takes_part_again():
    line = Line()
    lease = line.start("a")
    line.pass_time(5.0)
    lease.release()
    lease.resume()
    line.pass_time(1.5)
    assert roles(line) == {"a": Role.STANDBY}
    line.pass_time(0.5)
    assert roles(line) == {"a": Role.SERVING}


def test_a_blind_gate_that_reads_what_lay_in_its_queue_waits_for_the_acts_of_another_one():
    line = Line()
    lease = line.start("a", held_last=True)
    line.now += T + 1.0
    assert lease.permit(line.now).reject
    lease.on_delivery(line.now)
    assert not lease.permit(line.now).reject
    assert lease.role(line.now) is Role.BLIND
    lease.on_queue_ping(Ping(gate="b", process="b", sent_at=7.0, active=True), line.now)
    line.now += 1.0
    assert not lease.permit(line.now).reject


def test_a_gate_that_never_hears_its_own_pings_rejects_after_a_while():
    line = Line()
    lease = line.start("a", held_last=True)
    line.now += 5 * T - 0.1
    lease.on_delivery(line.now)
    assert not lease.permit(line.now).reject
    line.now += 0.2
    lease.on_delivery(line.now)
    assert lease.permit(line.now).reject
