"""Pictures of the archive as files, for people."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Iterator
from pathlib import Path

from patchline.archive.pictures import PictureRow
from patchline.archive.store import Store
from patchline.protocol.errors import SetupError


def write(store: Store, rows: Iterable[PictureRow], folder: Path) -> Iterator[Path]:
    """Write pictures as `JOB_ID-KIND.EXTENSION` into a folder, which is made. Yield each path once it is written.

    Raises:
        SetupError: the store has lost a picture, or the folder cannot be written.
        StoreUnavailable: the store cannot be used.
    """
    for row in rows:
        body = store.get(row.digest)
        if body is None:
            raise SetupError(f"{row.job_id}: the store has lost its {row.kind}, {row.digest}")
        extension = mimetypes.guess_extension(row.content_type) or ".bin"
        file = folder / f"{row.job_id.replace(':', '_')}-{row.kind}{extension}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
        except OSError as error:
            raise SetupError(f"{folder}: cannot be written ({error.strerror})") from error
        yield file
