"""Subcommands of `patchline banks` for a shadow: a version that judges beside the active one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from patchline import config
from patchline.cli.archive import opened
from patchline.cli.bank_versions import Name, Who, Why, announced, name_of
from patchline.cli.options import CONFIG, Settings, names
from patchline.protocol.errors import SetupError


def shadow(
    category: Name,
    why: Why,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="The first digits of its digest.")] = None,
    share: Annotated[float, typer.Option(metavar="SHARE", help="Of the images, above 0 and at most 1.")] = 1.0,
    end: Annotated[bool, typer.Option("--end", help="End the shadow of the category.")] = False,
    who: Who = None,
    config_file: Settings = CONFIG,
) -> None:
    """Have workers judge a share of the images by another version, too. Nobody acts on what it says.

    It judges after the verdict, with the features of the verdict, and only while no job needs the place. `patchline
    banks report` compares the two. A category has one shadow. It ends with --end, or when the version is activated.

    Example:  patchline banks shadow gasket 3f9a1c --share 0.25 --why "may replace the bank of week 40"
    """
    from patchline.banks import opening
    from patchline.banks.version_log import SHORT

    if end == (version is not None):
        raise SetupError("name the version, or give --end")
    settings = config.load(config_file)
    versions = opening.versions(settings)
    if version is None:
        ended = versions.end_shadow(category, name_of(who), why)
        print(f"{category}: version {ended[:SHORT]} is no shadow any more; {announced(settings, category, ended)}")
        return
    chosen = versions.state(category).find(version)
    versions.shadow(category, chosen, share, name_of(who), why)
    told = announced(settings, category, chosen)
    print(f"{category}: version {chosen[:SHORT]} is the shadow, of {share:.0%} of the images; {told}")


def report(
    category: Name,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The shadow; by default the last one of the category.")
    ] = None,
    line: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="Only this line.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Judged then or later: 2026-11-28T09:30, 8h.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Judged before that time.")] = None,
    most: Annotated[int, typer.Option(min=0, metavar="N", help="How many parts to name at most.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all parts.")] = False,
    config_file: Settings = CONFIG,
) -> None:
    """Compare what a shadow would have said with the verdicts on the same images.

    It prints who would have rejected what, McNemar's exact test, and the parts with two decisions by name, with both
    scores. Parts of a bank that served before another one have a table of their own. The archive has what is compared.

    Example:  patchline banks report gasket --since 8h
    """
    from patchline.archive import times
    from patchline.archive.shadows import ShadowSearch
    from patchline.banks import opening
    from patchline.operations import shadow_report
    from patchline.runtime.connections import now_ms

    settings = config.load(config_file)
    state = opening.versions(settings).state(category)
    chosen = shadow_report.last_shadow(state, category) if version is None else state.find(version)
    starts, ends = (None if text is None else times.parse(text, now_ms()) for text in (since, until))
    search = ShadowSearch(category, chosen, line, starts, ends)
    with opened(config_file) as archive:
        made = shadow_report.make(archive, search, settings.gate, None if as_json else most)
    print(json.dumps(made.as_json()) if as_json else made)
