"""Subcommands that add single good images to a memory bank and remove them from it: `banks add`, `banks remove`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.bank_versions import name_of
from patchline.cli.options import CONFIG, Serving, Settings, names

if TYPE_CHECKING:
    from patchline.banks.one_by_one import Changed
    from patchline.inspection.memory_bank import Change


Name = Annotated[str, typer.Argument(metavar="CATEGORY", callback=names, help="The category of the memory bank.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", metavar="FOLDER", help="Write the new bank into this new folder, not in the place of the old."
    ),
]
Why = Annotated[str | None, typer.Option("--why", metavar="TEXT", help="The reason; the manifest keeps it.")]
Who = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who acts; by default USER@HOST.")]


def add(
    category: Name,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files, or folders, of good parts.")],
    accept: Annotated[
        list[Path] | None,
        typer.Option(metavar="IMAGE", help="Add this image although it stands out. Again for more."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where the contact sheet of images that stand out goes.")
    ] = Path("out"),
    output: Output = None,
    why: Why = None,
    who: Who = None,
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Add good images to a memory bank that `fit` made, all of them or none.

    The thresholds are those of all images, each held out, as after a fit with the same rows. The rules of `fit` apply:
    copies are refused, and images that stand out are named (exit code 1) until they are accepted. Workers use the bank
    after a restart.

    Example:  patchline banks add gasket false-rejects/0815.png --why "scratch-free, over-killed on 3 March"
    """
    from patchline.banks import one_by_one
    from patchline.devices import backbone

    settings, kind = config.load(config_file), backbone.Device.parse(device)
    changed = one_by_one.add(settings, category, images, _change(who, why), kind, accept or (), out, output)
    _print(output or settings.paths.memory_banks / category, changed)


def remove(
    category: Name,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE_NAME...", help="Names of images in the bank.")],
    output: Output = None,
    why: Why = None,
    who: Who = None,
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Remove images from a memory bank that `fit` made, all of them or none.

    An image is named as in held_out.json of the bank: by its path below the folder that was fitted. The pictures of
    other images are read again where `fit` found them, because their nearest patches may be gone.

    Example:  patchline banks remove gasket 0042.png --why "a hairline crack"
    """
    from patchline.banks import one_by_one
    from patchline.devices import backbone

    settings, kind = config.load(config_file), backbone.Device.parse(device)
    changed = one_by_one.remove(settings, category, images, _change(who, why), kind, output)
    _print(output or settings.paths.memory_banks / category, changed)


def _change(who: str | None, why: str | None) -> Change:
    from patchline.banks import one_by_one
    from patchline.inspection.memory_bank import Change

    return Change(when=one_by_one.now(), who=name_of(who), why=why)


def _print(folder: Path, changed: Changed) -> None:
    from patchline.banks import report

    print(*changed.lines, sep="\n")
    print(
        f"{folder}: {changed.after.patches} patches of {changed.after.dim} numbers, {changed.before.patches} until "
        f"now; {changed.judged_again} other images read again"
    )
    print(report.describe_change(changed.before, changed.after))
