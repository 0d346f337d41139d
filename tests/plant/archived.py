"""What the archive of a plant holds at the end: a row for each job, and the picture of each reject."""

import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass

from patchline.archive import opening
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from tests.plant.goods import digest

_PICTURES = {"decisions": ["fail", "review", "expired", "error"], "min_free_bytes": 0}
CHANGES = {"batch": 50, "batch_ms": 50, "pictures": _PICTURES}
_SETTLE_S, _POLL_S = 60.0, 0.5


@dataclass(frozen=True)
class Archived:
    """Numbers of jobs and parts.

    Attributes:
        rows: first verdicts in the archive.
        missing: jobs with a verdict, and without a row.
        twice: parts with more than one row.
        rejects: rows of parts that did not pass and had an image.
        without_picture: those of them whose image is not in the store.
        foreign_pictures: parts whose image in the store is not the one of their job, as far as jobs were listened to.
    """

    rows: int
    missing: int
    twice: int
    rejects: int
    without_picture: int
    foreign_pictures: int

    @property
    def is_complete(self):
        """Return True if nothing is missing."""
        return not any((self.missing, self.twice, self.without_picture, self.foreign_pictures))


def when_settled(settings, audit):
    """Return what the archive holds as numbers, once that is all, or once it makes no progress any more."""
    found, since = _count(settings, audit), time.monotonic()
    while not found.is_complete and time.monotonic() - since < _SETTLE_S:
        time.sleep(_POLL_S)
        before, found = found, _count(settings, audit)
        if found != before:
            since = time.monotonic()
    return asdict(found)


def _count(settings, audit):
    with closing(sqlite3.connect(opening.target(settings), timeout=10)) as connection:
        query = "SELECT job_id, number, json_extract(document, '$.encoder_count'), decision, reason FROM verdicts"
        rows = connection.execute(query).fetchall()
        pictures = dict(connection.execute("SELECT job_id, digest FROM pictures WHERE kind = 'image'"))
    rejects = {row[0]: row[1:3] for row in rows if row[3] != Decision.PASS and row[4] != Reason.NO_IMAGE}
    store = opening.open_store(settings)
    bodies = {job_id: (job_id in pictures and store.get(pictures[job_id])) or b"" for job_id in rejects}
    seen = {(number, count): pixels for number, count, pixels in audit.pictures}
    return Archived(
        rows=len(rows),
        missing=len(audit.jobs - {row[0] for row in rows}),
        twice=sum(count > 1 for count in Counter(row[1:3] for row in rows).values()),
        rejects=len(rejects),
        without_picture=sum(not body for body in bodies.values()),
        foreign_pictures=sum(
            rejects[job_id] in seen and digest(body) != seen[rejects[job_id]] for job_id, body in bodies.items() if body
        ),
    )
