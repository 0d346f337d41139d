"""Subcommands for dead letters: list, show, replay, purge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, Settings
from patchline.protocol.errors import SetupError

if TYPE_CHECKING:
    from patchline.broker.rabbitmq import RabbitBroker

app = typer.Typer(no_args_is_help=True, help="Jobs that could not be judged: list, show, replay or delete them.")

Most = Annotated[
    int, typer.Option(min=1, max=60_000, metavar="N", help="How many of the oldest dead letters are read.")
]
One = Annotated[str | None, typer.Argument(metavar="[JOB_ID]", help="The job. Without it, --all is needed.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


@app.command("list")
def list_(most: Most = 1000, config_file: Settings = CONFIG) -> None:
    """Print a JSON line for each dead letter, oldest first.

    Example:  patchline dead-letters list
    """
    from patchline.operations import dead_letters

    with _broker(config_file) as broker:
        for letter in dead_letters.read(broker, most):
            print(letter.model_dump_json())


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the image is written.")] = Path("out/dead-letters"),
    most: Most = 1000,
    config_file: Settings = CONFIG,
) -> None:
    """Print one dead letter and write its image to a file.

    Example:  patchline dead-letters show 5d6ea460-6bde-50d5-965a-a47f1f5e2148
    """
    from patchline.operations import dead_letters

    with _broker(config_file) as broker:
        letter, path = dead_letters.show(broker, job_id, most, out)
        print(f"{letter.model_dump_json(indent=2)}\n{path}")


@app.command()
def replay(job_id: One = None, all_: All = False, most: Most = 1000, config_file: Settings = CONFIG) -> None:
    """Send dead letters to the line again with their job ids. They are judged again.

    Example:  patchline dead-letters replay --all
    """
    from patchline.operations import dead_letters

    _one_or_all(job_id, all_)
    with _broker(config_file) as broker:
        print(f"{dead_letters.replay(broker, job_id, most)} replayed")


@app.command()
def purge(job_id: One = None, all_: All = False, most: Most = 1000, config_file: Settings = CONFIG) -> None:
    """Delete dead letters and their images. Their verdicts were given.

    Example:  patchline dead-letters purge 5d6ea460-6bde-50d5-965a-a47f1f5e2148
    """
    from patchline.operations import dead_letters

    _one_or_all(job_id, all_)
    with _broker(config_file) as broker:
        print(f"{dead_letters.purge(broker, job_id, most)} purged")


@contextmanager
def _broker(config_file: Path) -> Iterator[RabbitBroker]:
    from patchline.runtime import connections

    settings = config.load(config_file)
    with connections.connect(settings, "dead-letters") as broker:
        broker.declare(connections.plant(settings))
        yield broker


def _one_or_all(job_id: str | None, all_: bool) -> None:
    if (job_id is None) != all_:
        raise SetupError("name one job, or use --all")
