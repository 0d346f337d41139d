"""What Redis still knows: the verdict and the heat map of a job, and the last verdicts of a line and category."""

from __future__ import annotations

import re
from pathlib import Path

from patchline import config
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Verdict
from patchline.worker import verdict_cache


def show(settings: config.Config, job_id: str, out: Path) -> tuple[Verdict, Path | None]:
    """Return the verdict of a job, and the file with its heat map in the folder `out`, if there is a heat map.

    Raises:
        SetupError: `job_id` is not an id, or Redis does not know it.
    """
    if re.fullmatch(messages.IDENTIFIER_PATTERN, job_id) is None:
        raise SetupError(f"{job_id!r} is not a job id")
    cache = verdict_cache.connect(settings.redis, on_failure=lambda: None)
    verdict = cache.get_verdict(job_id)
    if verdict is None:
        raise SetupError(
            f"Redis does not know job {job_id}: check the id; verdicts are kept for redis.keep_verdict_s "
            f"({settings.redis.keep_verdict_s} s), if Redis answers"
        )
    jpeg = cache.get_picture(job_id)
    if jpeg is None:
        return verdict, None
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{job_id}.jpg"
    path.write_bytes(jpeg)
    return verdict, path


def last(settings: config.Config, line: str, category: str, count: int) -> list[Verdict]:
    """Return the last verdicts of a line and category, newest first, at most `count` and `redis.keep_recent`.

    Raises:
        SetupError: the category is not in the configuration, or Redis does not answer or is switched off.
    """
    settings.category(category)
    verdicts = verdict_cache.connect(settings.redis, on_failure=lambda: None).recent_verdicts(line, category, count)
    if verdicts is None:
        raise SetupError("Redis does not answer or is switched off; check redis.url or PATCHLINE_REDIS_URL")
    return verdicts
