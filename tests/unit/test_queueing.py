"""The queueing theory of `patchline size`, against closed forms and known values."""

import math

import pytest

from patchline.operations import queueing

SERVICE_S = 0.02


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8, 0.95])
def test_one_server_with_exponential_service_is_m_m_1(load):
    rate = load / SERVICE_S
    assert queueing.waiting_probability(1, load) == pytest.approx(load)
    assert queueing.mean_wait_s(1, rate, SERVICE_S, 1) == pytest.approx(load * SERVICE_S / (1 - load))
    assert queueing.wait_s(1, rate, SERVICE_S, 1) == pytest.approx(SERVICE_S / (1 - load) * math.log(load / 0.01))


@pytest.mark.parametrize("load", [0.1, 0.5, 0.95])
def test_one_server_with_constant_service_waits_half_as_long(load):
    assert queueing.mean_wait_s(1, load / SERVICE_S, SERVICE_S, 0) == pytest.approx(load * SERVICE_S / (1 - load) / 2)


@pytest.mark.parametrize(("servers", "load", "known"), [(2, 1, 1 / 3), (3, 2, 4 / 9), (5, 4, 0.5541), (10, 8, 0.4092)])
def test_erlangs_formula_has_the_values_of_the_tables(servers, load, known):
    assert queueing.waiting_probability(servers, load) == pytest.approx(known, abs=5e-5)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.4), (2, 1.7), (8, 5.6), (30, 29.0)])
def test_erlangs_formula_is_its_sum(servers, load):
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    total = sum(load**number / math.factorial(number) for number in range(servers)) + last
    assert queueing.waiting_probability(servers, load) == pytest.approx(last / total)


def test_nobody_waits_where_nothing_comes():
    assert queueing.waiting_probability(4, 0) == 0
    assert queueing.wait_s(4, 0, SERVICE_S, 1) == 0


def test_99_of_100_do_not_wait_where_fewer_than_one_in_100_finds_all_busy():
    assert queueing.waiting_probability(8, 1.5) < 0.01
    assert queueing.wait_s(8, 1.5 / SERVICE_S, SERVICE_S, 1) == 0


@pytest.mark.parametrize("load", [2, 2.5, -1, math.nan])
def test_a_load_that_the_servers_cannot_do_is_refused(load):
    with pytest.raises(ValueError, match="2 servers cannot do a load of"):
        queueing.waiting_probability(2, load)


@pytest.mark.parametrize(("images", "servers", "turns"), [(1, 1, 0), (8, 8, 0), (9, 8, 1), (16, 8, 1), (17, 8, 2)])
def test_the_last_of_images_that_come_together_waits_for_whole_turns(images, servers, turns):
    assert queueing.simultaneous_wait_s(images, servers, SERVICE_S) == pytest.approx(turns * SERVICE_S)
