"""The check of the storm at both ends of a line tells a gate that idles from one that works."""

from tests.chaos import promise

HEARD = {"p1": (0.0, 1.0)}  # heard at 0 s with a patience of 1 s
ACTS = {"p1": [{"at": 4.0}]}


def beats(able):
    return [{"pid": 7, "at": tick / 20, "role": "serving", "able": able(tick / 20)} for tick in range(100)]


def overdue(able):
    return promise._overdue(HEARD, ACTS, promise._able_intervals(beats(able)))


def test_a_part_that_an_idle_gate_leaves_alone_is_unnoticed():
    assert overdue(lambda at: True) == ({"p1"}, {"p1"})


def test_a_part_that_waits_for_a_gate_that_acts_on_others_is_only_late():
    assert overdue(lambda at: at < 1.5 or at > 3.8) == ({"p1"}, set())


def test_time_in_which_a_gate_makes_no_step_does_not_count():
    frozen = [beat for beat in beats(lambda at: True) if not 1.2 < beat["at"] < 3.9]
    assert promise._overdue(HEARD, ACTS, promise._able_intervals(frozen)) == ({"p1"}, set())
