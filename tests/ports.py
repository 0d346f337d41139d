"""Ports for the servers of tests: each process of pytest has its own, and gives one again after all others.

A test uses a port some time after it got it, and some ports have to stay without a server. Of ports by chance, two of
six processes got the same one in some runs.
"""

import os
from collections import deque


class Ports:
    """What replaces `server.candidates` in a process of pytest.

    Args:
        ports: those of all processes, in an order by chance.
        environment: that of the process, in which pytest-xdist says which of how many it is.
    """

    def __init__(self, ports, environment=os.environ):
        number = int(environment.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        share = len(ports) // int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        own = set(sorted(ports)[number * share : (number + 1) * share])  # in a row: some tests need several in a row
        self._next = deque(port for port in ports if port in own)

    def __call__(self):
        """Yield each port once: first the one that was not given for longest."""
        for _ in range(len(self._next)):
            port = self._next.popleft()
            self._next.append(port)
            yield port
