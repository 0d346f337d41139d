"""Recent verdicts on a real Redis."""

import pytest

from patchline import config
from patchline.worker import verdict_cache
from tests.unit.test_worker_parts import verdict


@pytest.fixture
def cache(servers):
    settings = config.Redis(url=servers.redis_url, keep_recent=5, keep_verdict_s=60, timeout_s=2.0)
    cache = verdict_cache.RedisVerdictCache(settings, lambda: pytest.fail("Redis did not answer"))
    cache._client.flushdb()
    yield cache
    cache._client.close()


def test_a_verdict_is_known_again_and_the_unknown_is_not(cache):
    cache.save_verdict(verdict(job_id="a"))
    cache.close()
    assert cache.get_verdict("a") == verdict(job_id="a")
    assert cache.get_verdict("b") is None
    assert 0 < cache._client.ttl("patchline:verdict:a") <= 60


def test_the_last_verdicts_of_a_line_and_category_are_kept_newest_first(cache):
    for number in range(8):
        cache.save_verdict(verdict(job_id=f"j{number}"))
    cache.close()
    kept = cache._client.lrange("patchline:recent:l:bottle", 0, -1)
    assert [b'"job_id":"j%d"' % number in each for number, each in zip(range(7, 2, -1), kept, strict=True)] == [
        True
    ] * 5


def test_a_picture_is_kept_for_a_while(cache):
    cache.save_picture("a", b"jpeg")
    cache.close()
    assert cache.get_picture("a") == b"jpeg"
    assert 0 < cache._client.ttl("patchline:picture:a") <= 3600
