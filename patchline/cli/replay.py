"""`patchline archive replay`."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from patchline import config
from patchline.cli.archive import opened
from patchline.cli.options import CONFIG, Serving, Settings, names
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision

_DIFFERS, _IMPOSSIBLE = 1, 2  # exit codes


def replay(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="[JOB_ID...]", help="The ids of the jobs.")] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Instead of ids: the latest N verdicts.")] = None,
    decision: Annotated[list[Decision] | None, typer.Option(help="With --last: this decision; again for more.")] = None,
    line: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="With --last: of this line.")] = None,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", callback=names, help="With --last: of this category.")
    ] = None,
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Judge archived pictures again, with the bank, the model and the recipe of their verdicts.

    The same build on the same kind of processor gives the same score to the last digit, whichever bank is active now.
    A line says for each job whether it does, and what is not as it was.

    Exit code: 0 if all scores are the same, 1 if one differs, otherwise 2 if a job cannot be replayed.

    Example:  patchline archive replay --last 100 --decision fail
    """
    from patchline.archive import opening
    from patchline.archive.base import Search
    from patchline.archive.picture_table import PictureTable
    from patchline.banks.past_versions import PastVersions
    from patchline.devices.backbone import Device
    from patchline.inspection.search import exact_search
    from patchline.operations.look_result import Answer
    from patchline.operations.replay import Replayer

    if bool(jobs) == (last is not None):
        raise SetupError("name jobs by their ids, or give --last N")
    if jobs and (decision or line or category):
        raise SetupError("--decision, --line and --category go with --last")
    settings = config.load(config_file)
    exact_search.set_threads(1)  # as the lanes of a worker
    with opened(config_file) as archive, PastVersions(settings) as banks:
        search = Search(line=line, category=category, decisions=tuple(map(str, decision or [])), most=last)
        ids = jobs or [record.job_id for record in archive.find(search)]
        pictures, store = PictureTable(archive), opening.open_store(settings)
        replayer = Replayer(settings, Device.parse(device), archive, pictures, store, banks)
        counts = dict.fromkeys(Answer, 0)
        with closing(replayer):
            for result in map(replayer.replay, ids):
                counts[result.answer] += 1
                print(result, flush=True)
    print(f"{len(ids)} jobs: " + ", ".join(f"{counts[answer]} {answer}" for answer in Answer))
    if counts[Answer.OTHER]:
        raise typer.Exit(_DIFFERS)
    if counts[Answer.IMPOSSIBLE] or not ids:
        raise typer.Exit(_IMPOSSIBLE)
