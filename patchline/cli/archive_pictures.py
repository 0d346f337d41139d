"""Subcommands for the pictures of the archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, Settings
from patchline.protocol.errors import SetupError

if TYPE_CHECKING:
    from patchline.archive.database import Access
    from patchline.archive.ledger_database import LedgerDatabase

Jobs = Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="The ids of the jobs.")]


def picture(
    job: Annotated[str, typer.Argument(metavar="JOB_ID", help="The id of the job.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where to write them.")] = Path(),
    config_file: Settings = CONFIG,
) -> None:
    """Write the image of a job as it was captured, and its heat map if there is one.

    Example:  patchline archive picture 4f5b17d0-6f0c-5f0e-9a53-0d4f0d0b6a10 -o out
    """
    from patchline.archive import opening, picture_files
    from patchline.archive.database import Access
    from patchline.archive.picture_table import PictureTable
    from patchline.archive.store import StoreUnavailable

    settings = config.load(config_file)
    with opened(settings, Access.READ) as archive:
        rows = PictureTable(archive).of_job(job)
        if not rows:
            raise SetupError(picture_files.why_none(archive, job))
    store = opening.open_store(settings)
    try:
        for file in picture_files.write(store, rows, out):
            print(file)
    except StoreUnavailable as error:
        raise SetupError(f"the store of the pictures cannot be used ({error})") from error


def hold(
    jobs: Jobs,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with the pictures.")] = "held",
    config_file: Settings = CONFIG,
) -> None:
    """Keep the pictures of jobs, whatever their age and the space: a legal hold. `release` ends it.

    Example:  patchline archive hold JOB_ID --reason "claim 2026-117"
    """
    _set_hold(jobs, reason, "held", config_file)


def release(jobs: Jobs, config_file: Settings = CONFIG) -> None:
    """Let the rules of the configuration decide again how long the pictures of jobs are kept.

    Example:  patchline archive release JOB_ID
    """
    _set_hold(jobs, None, "released", config_file)


def _set_hold(jobs: list[str], reason: str | None, done: str, config_file: Path) -> None:
    from patchline.archive import picture_files
    from patchline.archive.database import Access
    from patchline.archive.picture_table import PictureTable

    missing = []
    with opened(config.load(config_file), Access.CHANGE) as archive:
        index = PictureTable(archive)
        for job in jobs:
            count = index.hold(job, reason)
            if count:
                print(f"{job}: {count} pictures {done}")
            else:
                missing.append(picture_files.why_none(archive, job))
    if missing:
        raise SetupError("\n".join(missing))


@contextmanager
def opened(settings: config.Config, access: Access) -> Iterator[LedgerDatabase]:
    """Open the archive. What it cannot do is one line."""
    from patchline.archive import opening
    from patchline.archive.base import Unavailable

    with closing(opening.open_archive(settings, access)) as archive:
        try:
            yield archive
        except Unavailable as error:
            raise SetupError(f"the database of the archive cannot be used ({error})") from error
