"""Recent verdicts in a real Redis."""

import json

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


def test_only_a_stored_verdict_is_found(cache):
    cache.save_verdict(verdict(job_id="a"))
    cache.close()
    assert cache.get_verdict("a") == verdict(job_id="a")
    assert cache.get_verdict("b") is None
    assert 0 < cache._client.ttl("patchline:verdict:a") <= 60


def test_the_last_verdicts_of_a_line_and_category_are_kept_newest_first(cache):
    for number in range(8):
        cache.save_verdict(verdict(job_id=f"j{number}"))
    cache.close()
    stored = cache._client.lrange("patchline:recent:l:bottle", 0, -1)
    assert [json.loads(entry)["job_id"] for entry in stored] == ["j7", "j6", "j5", "j4", "j3"]


def test_recent_verdicts_are_read_newest_first(cache):
    for number in range(3):
        cache.save_verdict(verdict(job_id=f"j{number}"))
    cache.close()
    cache._client.lpush("patchline:recent:l:bottle", b'{"colour": "red"}')
    assert [each.job_id for each in cache.recent_verdicts("l", "bottle", 3)] == ["j2", "j1"]
    assert cache.recent_verdicts("l", "other", 3) == []


def test_a_picture_is_kept_for_an_hour(cache):
    cache.save_picture("a", b"jpeg")
    cache.close()
    assert cache.get_picture("a") == b"jpeg"
    assert 0 < cache._client.ttl("patchline:picture:a") <= 3600
