"""Pictures of the archive as files, for people."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterable, Iterator
from pathlib import Path

from patchline.archive.ledger import Ledger
from patchline.archive.pictures import PictureRow
from patchline.archive.store import Store
from patchline.protocol.errors import SetupError

_JOBS_NAMED = 5


def write(store: Store, rows: Iterable[PictureRow], folder: Path) -> Iterator[Path]:
    """Write pictures as `JOB_ID-KIND.EXTENSION` into a folder, which is made. Yield each path once it is written.

    Raises:
        SetupError: the store has lost or damaged a picture, or the folder cannot be written.
        StoreUnavailable: the store cannot be used.
    """
    for row in rows:
        body = store.get(row.digest)
        if body is None:
            raise SetupError(f"{row.job_id}: the store has lost its {row.kind}, {row.digest}")
        if hashlib.sha256(body).hexdigest() != row.digest:
            raise SetupError(f"{row.job_id}: its {row.kind} is damaged: the store has other bytes as {row.digest}")
        extension = mimetypes.guess_extension(row.content_type) or ".bin"
        file = folder / f"{row.job_id.replace(':', '_')}-{row.kind}{extension}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
        except OSError as error:
            raise SetupError(f"{folder}: cannot be written ({error.strerror})") from error
        yield file


def why_none(archive: Ledger, name: str) -> str:
    """Return in words why there is no picture of a job.

    Raises:
        Unavailable: see `base.Archive`.
    """
    record = archive.get(name)
    if record is not None:
        text = "no picture was kept, or it was deleted by its age or for space (archive.pictures)"
        return f"{name}: the archive has no picture of this job: its verdict is {record.decision}, and {text}"
    jobs = archive.jobs_of(name, _JOBS_NAMED)
    if jobs and jobs != [name]:
        return f"{name}: is the id of a part; name its job: {', '.join(jobs)}"
    return f"{name}: the archive knows no job with this id"
