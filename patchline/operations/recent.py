"""What Redis still knows of a job: its verdict and its picture."""

from __future__ import annotations

import re
from pathlib import Path

from patchline import config
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Verdict
from patchline.worker import verdict_cache


def show(settings: config.Config, job_id: str, out: Path) -> tuple[Verdict, Path | None]:
    """The verdict of a job, and its picture as a file in the folder `out`, where there is one.

    Raises:
        SetupError: the id is none, or Redis knows nothing of it.
    """
    if re.fullmatch(messages.IDENTIFIER_PATTERN, job_id) is None:
        raise SetupError(f"{job_id!r} is no job id")
    cache = verdict_cache.connect(settings.redis, on_failure=lambda: None)
    verdict = cache.get_verdict(job_id)
    if verdict is None:
        raise SetupError(f"Redis knows no job {job_id}: another id, longer ago than redis.keep_verdict_s, or no Redis")
    picture = cache.get_picture(job_id)
    if picture is None:
        return verdict, None
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{job_id}.jpg"
    path.write_bytes(picture)
    return verdict, path
