"""Processes of pytest get ports of their own."""

from itertools import islice

from tests.ports import Ports

ALL = [17, 3, 11, 29, 5, 23]


def process(number, count=3):
    return Ports(ALL, {"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": str(count)})


def test_no_two_processes_get_the_same_port_and_together_they_get_all():
    given = [list(process(number)()) for number in range(3)]
    assert sorted(port for ports in given for port in ports) == sorted(ALL)
    assert [sorted(ports) for ports in given] == [[3, 5], [11, 17], [23, 29]]


def test_a_process_without_others_gets_all_ports():
    assert list(Ports(ALL, {})()) == ALL


def test_a_port_is_given_again_after_all_others():
    ports = Ports(ALL, {})
    given = [port for _ in range(5) for port in islice(ports(), 2)]
    assert given == [*ALL, *ALL[:4]]
