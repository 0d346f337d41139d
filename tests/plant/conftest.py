"""The servers and the results of the plant."""

import pytest

from patchline.services import private_servers
from tests.plant import goods as belt_goods
from tests.plant import reckoning


@pytest.fixture(scope="session")
def reckonings():
    """The reckoning of each run, written to a file at the end."""
    reckonings = {}
    yield reckonings
    reckoning.write(reckonings)


@pytest.fixture(scope="session")
def goods_for(tmp_path_factory):
    """Return what lies on the belt before a kind of camera, with a memory bank."""
    made = {}

    def goods_for(camera):
        shows_parts = camera != "aravis"
        if shows_parts not in made:
            made[shows_parts] = belt_goods.make(tmp_path_factory.mktemp("goods"), shows_parts)
        return made[shows_parts]

    return goods_for


@pytest.fixture(scope="module")
def servers_to_kill():
    """A broker that tests may kill, and a Redis."""
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        redis, redis_url = private_servers.redis(home / "redis")
        with private_servers.start_all([node.server, redis]):
            yield node, redis_url
