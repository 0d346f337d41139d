"""Subcommands for the versions of memory banks in the shared store."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, Settings, names
from patchline.protocol.errors import SetupError
from patchline.runtime import this_user

if TYPE_CHECKING:
    from patchline.banks.versions import Versions

app = typer.Typer(
    no_args_is_help=True,
    help="Versions of memory banks in a store that all hosts share: workers switch to another one without a restart.",
)

Name = Annotated[str, typer.Argument(metavar="CATEGORY", callback=names, help="The category of the memory bank.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="The version: the first digits of its digest.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the audit log.")]
Who = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who acts; by default USER@HOST.")]


@app.command()
def init(config_file: Settings = CONFIG) -> None:
    """Make the store: banks.store of the configuration, a folder that every host of the plant can read.

    Example:  patchline banks init
    """
    from patchline.banks import opening

    settings = config.load(config_file)
    made = opening.versions(settings).make()
    print(f"{settings.banks.store}: {'made' if made else 'is a store of memory banks already'}")


@app.command("list")
def list_(
    category: Annotated[str | None, typer.Argument(metavar="[CATEGORY]", callback=names)] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Show the versions: made when, by whom and of what, their thresholds, their state, and who serves them.

    Example:  patchline banks list gasket
    """
    from patchline.banks import bank_list, opening
    from patchline.operations import bank_news
    from patchline.runtime import terminal

    settings = config.load(config_file)
    versions = opening.versions(settings)
    tables = _with_versions(versions, category)
    serving = bank_news.serving(settings) if tables else None
    for name in tables:
        terminal.table(name, bank_list.COLUMNS, bank_list.rows(versions, name, serving), text=True)
    if not tables:
        print(f"{settings.banks.store}: has no versions yet; see `patchline banks publish --help`")
    elif serving is None:
        print("?: no worker was heard: none runs, RabbitMQ is away, or this user may not listen (it needs worker.url)")


def _with_versions(versions: Versions, category: str | None) -> list[str]:
    """Return the categories of the store, or the one that is named. Raise SetupError if that has no versions."""
    known = versions.categories()
    if category is None:
        return known
    if category not in known:
        names_ = ", ".join(known) or "none"
        advice = f"publish one with `patchline banks publish {category} --why TEXT`"
        raise SetupError(f"the store has no version of category {category} (it has: {names_}); {advice}")
    return [category]


@app.command()
def log(category: Name, config_file: Settings = CONFIG) -> None:
    """Print the audit log: who did what, when and why, and what workers said of it; one JSON object a line.

    Example:  patchline banks log gasket
    """
    from patchline.banks import bank_list, opening

    versions = opening.versions(config.load(config_file))
    _with_versions(versions, category)
    print(*bank_list.log(versions, category), sep="\n")


@app.command()
def publish(
    category: Name,
    why: Why,
    folder: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="The bank; by default that of the category, as fit made it."),
    ] = None,
    who: Who = None,
    config_file: Settings = CONFIG,
) -> None:
    """Store a memory bank as a version. Workers serve it once it is activated.

    Example:  patchline banks publish gasket --why "new supplier, 210 images of week 48"
    """
    from patchline.banks import opening
    from patchline.banks.version_log import SHORT

    settings = config.load(config_file)
    settings.category(category)
    source = settings.paths.memory_banks / category if folder is None else folder
    versions = opening.versions(settings)
    version, is_new = versions.publish(source, category, name_of(who), why)
    print(f"{category}: {source} {'is' if is_new else 'was published before as'} version {version}")
    state = versions.state(category).state_of(version)
    if state in ("active", "retired"):
        print("It is active." if state == "active" else "It is retired, and cannot be activated any more.")
    else:
        print(f"To have workers serve it: patchline banks activate {category} {version[:SHORT]} --why TEXT")


@app.command()
def activate(
    category: Name,
    version: Version,
    why: Why,
    instead_of: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only if this version is active until now.")
    ] = None,
    who: Who = None,
    config_file: Settings = CONFIG,
) -> None:
    """Have all workers serve a version. Each one checks it, and switches between two jobs.

    A worker that cannot serve it keeps the one before, and says why: see its log, `patchline banks log`, and the alert
    PatchlineBankNotActivated.

    Example:  patchline banks activate gasket 3f9a1c --why "evaluated on week 48: 2 of 400 good parts rejected"
    """
    from patchline.banks import opening
    from patchline.banks.version_log import SHORT

    settings = config.load(config_file)
    versions = opening.versions(settings)
    state = versions.state(category)
    chosen, replaced = state.find(version), None if instead_of is None else state.find(instead_of)
    versions.activate(category, chosen, name_of(who), why, replaced)
    print(f"{category}: version {chosen[:SHORT]} is active; {announced(settings, category, chosen)}")


@app.command()
def rollback(category: Name, why: Why, who: Who = None, config_file: Settings = CONFIG) -> None:
    """Have all workers serve the version that was active before.

    Example:  patchline banks rollback gasket --why "rejects good parts of mould 2"
    """
    from patchline.banks import opening
    from patchline.banks.version_log import SHORT

    settings = config.load(config_file)
    version = opening.versions(settings).rollback(category, name_of(who), why)
    print(f"{category}: version {version[:SHORT]} is active again; {announced(settings, category, version)}")


@app.command()
def retire(category: Name, version: Version, why: Why, who: Who = None, config_file: Settings = CONFIG) -> None:
    """Have a version never activated again. Its files stay, since verdicts name it.

    Example:  patchline banks retire gasket 77b0e2 --why "fitted with a scratched part"
    """
    from patchline.banks import opening
    from patchline.banks.version_log import SHORT

    versions = opening.versions(config.load(config_file))
    chosen = versions.state(category).find(version)
    versions.retire(category, chosen, name_of(who), why)
    print(f"{category}: version {chosen[:SHORT]} is retired")


@app.command()
def thresholds(
    category: Name,
    version: Version,
    why: Why,
    review: Annotated[float, typer.Option(metavar="SCORE", help="A part is reviewed from this score on.")],
    fail: Annotated[float, typer.Option(metavar="SCORE", help="A part fails from this score on.")],
    who: Who = None,
    config_file: Settings = CONFIG,
) -> None:
    """Make a version with the rows of another one, and with thresholds that you choose.

    The threshold of the hottest patch stays. Workers serve it once it is activated.

    Example:  patchline banks thresholds gasket 3f9a1c --review 820 --fail 950 --why "over-kill of week 48"
    """
    from patchline.banks import opening, report, set_thresholds
    from patchline.banks.version_log import SHORT

    versions = opening.versions(config.load(config_file))
    chosen = versions.state(category).find(version)
    made = set_thresholds.publish(versions, category, chosen, review, fail, name_of(who), why)
    print(f"{category}: {made}\n{report.describe(versions.manifest(category, made))}")
    print(f"To have workers serve it: patchline banks activate {category} {made[:SHORT]} --why TEXT")


def announced(settings: config.Config, category: str, version: str) -> str:
    """Tell the workers to look at the store, and say whether they were told."""
    from patchline.operations import bank_news

    reason = bank_news.announce(settings, category, version)
    if reason is None:
        return "workers were told (patchline banks list shows which of them serve it)"
    return f"workers were not told ({reason}), and look at the store every {settings.banks.poll_s:g} s"


def name_of(who: str | None) -> str:
    """Who acts: as said, or the user and the host."""
    return f"{this_user.person()}@{socket.gethostname()}" if who is None else who
