"""How long images wait for a server: M/G/c, by Erlang's formula and the correction of Allen and Cunneen.

Lines are periodic, and independent of each other: together they arrive at most as irregularly as a Poisson process, so
its waits are the safe ones. Lines whose phases meet are the other case: `simultaneous_wait_s`.
"""

from __future__ import annotations

import math


def waiting_probability(servers: int, load: float) -> float:
    """Return the probability that an image finds all servers busy (Erlang C).

    Args:
        servers: their number, 1 or more.
        load: arrivals a second times seconds of service; below `servers`.

    Raises:
        ValueError: the servers cannot do this load.
    """
    if not 0 <= load < servers:
        raise ValueError(f"{servers} servers cannot do a load of {load:g}")
    blocking = 1.0
    for number in range(1, servers + 1):
        blocking = load * blocking / (number + load * blocking)
    return servers * blocking / (servers - load * (1 - blocking))


def mean_wait_s(servers: int, rate: float, service_s: float, variation: float) -> float:
    """Return the mean wait before service, in seconds.

    Args:
        servers: their number.
        rate: arrivals a second.
        service_s: the mean time of service.
        variation: the squared coefficient of variation of that time: 0 if it is constant, 1 if it is exponential.

    Raises:
        ValueError: the servers cannot do this load.
    """
    return waiting_probability(servers, rate * service_s) * _delay_s(servers, rate, service_s, variation)


def wait_s(servers: int, rate: float, service_s: float, variation: float, share: float = 0.99) -> float:
    """Return the wait that a share of all images does not exceed. See `mean_wait_s`.

    The waits of those that wait are taken as exponential: exact for M/M/c, and for all under high load.
    """
    probability = waiting_probability(servers, rate * service_s)
    if probability <= 1 - share:
        return 0.0
    return _delay_s(servers, rate, service_s, variation) * math.log(probability / (1 - share))


def simultaneous_wait_s(images: int, servers: int, service_s: float) -> float:
    """Return the wait of the last one of images that arrive at the same moment, at idle servers."""
    return (math.ceil(images / servers) - 1) * service_s


def _delay_s(servers: int, rate: float, service_s: float, variation: float) -> float:
    """Return the mean wait of those that wait."""
    return service_s / (servers - rate * service_s) * (1 + variation) / 2
