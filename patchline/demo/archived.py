"""The archive of a demo: SQLite and a folder of pictures, and what they hold of a reject at the end."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from patchline import config
from patchline.archive import opening, picture_files
from patchline.archive.base import Search
from patchline.archive.database import Access
from patchline.archive.picture_table import PictureTable
from patchline.broker.base import Broker, QueueConsumer
from patchline.protocol import topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision, Verdict

ENVIRONMENT = {"PATCHLINE_ARCHIVE_URL": ""}  # a demo does not write into the database of a plant
_QUEUE = "patchline.demo"
_WAIT_S, _POLL_S = 30.0, 0.2
_PICTURES = config.Pictures(decisions=("fail", "review", "expired", "error"), min_free_bytes=100_000_000)


def settings_for(settings: config.Config) -> config.Config:
    """Return the settings with an archive that keeps the pictures of all parts that do not pass."""
    return settings.model_copy(update={"archive": config.Archive(pictures=_PICTURES)})


def consume_verdicts(broker: Broker) -> QueueConsumer:
    """Return a consumer of all verdicts, from a queue of its own: the archive reads `patchline.verdicts`."""
    queue = topology.Queue(_QUEUE, ((topology.VERDICTS, "#"),), {"x-queue-type": "quorum"})
    broker.declare(topology.Topology(topology.EXCHANGES, (queue,)))
    return broker.consume(_QUEUE, prefetch=200)


def wait(settings: config.Config, verdicts: Collection[Verdict]) -> int:
    """Wait until the archive has the verdicts, and pictures of those that do not pass.

    Returns:
        How many verdicts it lacks after half a minute.
    """
    missing = {verdict.job_id for verdict in verdicts}
    rejects = {verdict.job_id for verdict in verdicts if _has_picture(verdict)}
    deadline = time.monotonic() + _WAIT_S
    with closing(opening.open_archive(settings, Access.READ)) as archive:
        pictures = PictureTable(archive)
        while (missing or rejects) and time.monotonic() < deadline:
            missing -= {record.job_id for record in archive.find(Search())}
            rejects -= pictures.kinds(list(rejects)).keys()
            time.sleep(_POLL_S)
    return len(missing)


def show(settings: config.Config, verdicts: Collection[Verdict], out: Path) -> None:
    """Print what the archive holds, and write the pictures of the reject with the highest score into `out`.

    Raises:
        SetupError: the store has lost a picture, or the folder cannot be written.
    """
    score_of = {verdict.job_id: verdict.score or 0.0 for verdict in verdicts if _has_picture(verdict)}
    with closing(opening.open_archive(settings, Access.READ)) as archive:
        pictures = PictureTable(archive)
        kept = pictures.kinds(list(score_of)).keys()
        print(f"the archive holds {len(verdicts)} verdicts, and the pictures of {len(kept)} of {len(score_of)} rejects")
        if not kept:
            return
        worst = max(kept, key=lambda job_id: score_of[job_id])
        files = list(picture_files.write(opening.open_store(settings), pictures.of_job(worst), out / "archived"))
    print("\n".join(map(str, files)))
    print(f"patchline archive part {worst} --config {out / 'config.yaml'}")


def _has_picture(verdict: Verdict) -> bool:
    return verdict.decision is not Decision.PASS and verdict.reason is not Reason.NO_IMAGE
