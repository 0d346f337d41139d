"""Recent verdicts on a real Redis."""

import pytest

from patchline import config
from patchline.worker import recent
from tests.unit.test_worker_parts import verdict


@pytest.fixture
def memory(servers):
    settings = config.Redis(url=servers.redis_url, keep_recent=5, keep_verdict_s=60, timeout_s=2.0)
    memory = recent.RedisRecent(settings, lambda: pytest.fail("Redis did not answer"))
    memory._client.flushdb()
    yield memory
    memory._client.close()


def test_a_verdict_is_known_again_and_the_unknown_is_not(memory):
    memory.remember(verdict(job_id="a"))
    memory.close()
    assert memory.known("a") == verdict(job_id="a")
    assert memory.known("b") is None
    assert 0 < memory._client.ttl("patchline:verdict:a") <= 60


def test_the_last_verdicts_of_a_line_and_category_are_kept_newest_first(memory):
    for number in range(8):
        memory.remember(verdict(job_id=f"j{number}"))
    memory.close()
    kept = memory._client.lrange("patchline:recent:l:bottle", 0, -1)
    assert [b'"job_id":"j%d"' % number in each for number, each in zip(range(7, 2, -1), kept, strict=True)] == [
        True
    ] * 5


def test_a_picture_is_kept_for_a_while(memory):
    memory.keep_picture("a", b"jpeg")
    memory.close()
    assert memory.picture("a") == b"jpeg"
    assert 0 < memory._client.ttl("patchline:picture:a") <= 3600
