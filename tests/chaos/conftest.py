"""The servers and the results of all storms."""

from dataclasses import replace

import pytest

from patchline.services import private_servers
from tests import postgresql_server
from tests.chaos import reconciliation
from tests.chaos.archived import Archive
from tests.slow_disk import SlowDisk


@pytest.fixture(scope="session")
def results():
    """The reconciliation of each run, written to a file at the end."""
    results = {}
    yield results
    reconciliation.write(results)


@pytest.fixture(scope="module")  # the storms have queues with different limits
def servers_to_restart():
    """A broker and a Redis that tests may restart, and the disk of the broker."""
    with private_servers.temporary_folder() as home:
        disk = SlowDisk(home)
        node = private_servers.rabbitmq(home / "rabbitmq")
        node = replace(node, server=disk.attach_to(node.server))
        redis, redis_url = private_servers.redis(home / "redis")
        with private_servers.start_all([node.server, redis]):
            yield node, redis, redis_url, disk


@pytest.fixture
def archive():
    """An archive with an empty database in a PostgreSQL that tests may crash."""
    with postgresql_server.running() as postgres:
        yield Archive(postgres)
