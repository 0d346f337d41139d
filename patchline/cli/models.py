"""Subcommands for backbones: convert, quantize, probe, om."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, Category, Settings
from patchline.protocol.errors import SetupError

if TYPE_CHECKING:
    from patchline.models import atc


def convert(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="efficientnet_lite0, wideresnet101, resnet50, ...")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A torchvision checkpoint; downloaded without it.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Of the image; with --layer, for one model.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="layer1, layer2 or layer3.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Make backbones: ONNX files with their manifests. Needs the extra `convert` (torch).

    Without --side and --layer a ResNet gives the reference's four models: 224, 280 and 320 of layer2, 320 of layer3.
    Compares the scores of the golden images of memory banks that were fitted with a model of the same name.

    Example:  patchline convert wideresnet101 --weights wide_resnet101_2-32ee1156.pth
    """
    from patchline.banks import serving
    from patchline.devices import backbone
    from patchline.models import convert

    settings = config.load(config_file)
    models = settings.paths.models
    if (side is None) != (layer is None):
        raise SetupError("--side and --layer belong together: one model; without both, the reference's four")
    if network == convert.DEFAULT:
        manifests = [convert.efficientnet_lite0(models)]
    else:
        sizes = convert.REFERENCE_MODELS if side is None or layer is None else ((side, layer),)
        manifests = [convert.resnet(models, network, *size, weights) for size in sizes]
    for manifest in manifests:
        stride = manifest.stride
        print(f"{models / manifest.file}: {manifest.dim} numbers for each {stride} x {stride} pixels")
        for sentence in serving.compare_golden_images(settings, manifest.name, backbone.CPU):
            print(sentence)


def quantize(
    category: Category,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Good images of the category, as for fit.")],
    config_file: Settings = CONFIG,
) -> None:
    """Make a category's backbone anew in 8-bit integers, for the CPU: about twice as fast as bf16.

    Needs the extra `quantize` (nncf). The category takes part only when the configuration names the new backbone and
    its memory bank is fitted again; `patchline evaluate` says what it is worth.

    Example:  patchline quantize --category bottle good-bottles/
    """
    from patchline.models import quantize

    made, difference = quantize.quantize(config.load(config_file), category, folder)
    print(f"{made.file}: its features differ by {difference:.1%} of their size from those it was made of")
    print(f"to use it: backbone: {made.name} in {config_file}, then patchline fit --category {category} {folder}")


def probe(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A model, such as wideresnet101_224_layer2.")],
    side: Annotated[
        list[int] | None, typer.Option(metavar="PIXELS", help="Of the image; again for more. Default: the model's own.")
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Add probes to the manifest of a model: the mean features of one image, which every device is compared with.

    Models of convert and quantize have them. A model of an earlier build, or of your own, gets them by this command,
    and a model that takes any size for a size that its manifest lacks. Its features are computed on the CPU.

    Example:  patchline probe efficientnet_lite0 --side 640
    """
    from patchline.models import probes

    settings = config.load(config_file)
    manifest = probes.add(settings.paths.models, model, side)
    sides = ", ".join(str(side) for side in manifest.probes)
    print(f"{settings.paths.models / model}.json: probes for sides of {sides} pixels")


def om(
    model: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A model of the folder: wideresnet101_224_layer2.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All models, in all sizes, that the categories of the configuration name.")
    ] = False,
    side: Annotated[int | None, typer.Option(metavar="PIXELS", help="Of the image, where the model takes any.")] = None,
    air: Annotated[Path | None, typer.Option(metavar="FILE", help="Convert this .air of MindSpore instead.")] = None,
    adopt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take this .om of the reference: float32 NCHW in and out.")
    ] = None,
    soc_version: Annotated[
        str, typer.Option(metavar="CHIP", envvar="PATCHLINE_SOC_VERSION", help="The chip: Ascend310 or Ascend310P3.")
    ] = "Ascend310",
    cann: Annotated[
        str, typer.Option(metavar="VERSION", envvar="PATCHLINE_CANN", help="The CANN release of atc.")
    ] = "5.0.4",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For the files; the folder of the models without it.")
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Make the .om of a model for the Ascend: runs atc, or prints its command and writes the files for it.

    The files are a static ONNX, whose operators this CANN release reads, and the AIPP file. The .om gets a manifest of
    its own. On a machine with the chip, the golden images of memory banks are compared.

    Example:  patchline om wideresnet101_224_layer2, or patchline om --all
    """
    from patchline.models import adopt as adoption
    from patchline.models import atc

    settings = config.load(config_file)
    models = settings.paths.models
    if (model is None) != every or (every and (side, air, adopt) != (None, None, None)):
        raise SetupError("name one model, or use --all without --side, --air and --adopt")
    if model is not None and adopt is not None:
        print(adoption.adopt(models, model, side, adopt, soc_version))
        return
    wanted = atc.sizes_in_use(settings) if model is None else [(model, side)]
    _compile_each(settings, wanted, air, atc.Target(out or models, soc_version, cann))


def _compile_each(
    settings: config.Config, wanted: Sequence[tuple[str, int | None]], air: Path | None, target: atc.Target
) -> None:
    """Compile each model, print what became of it, and raise the errors of those that failed at the end."""
    from patchline.banks import serving
    from patchline.devices import backbone
    from patchline.models import atc

    failures = []
    for name, side in wanted:
        try:
            result = atc.compile_om(settings.paths.models, name, side, air, target)
        except SetupError as error:
            failures.append(str(error))
            continue
        print(result.text)
        if result.recorded and target.folder == settings.paths.models:
            for sentence in serving.compare_golden_images(settings, name, backbone.Device("ascend", 0)):
                print(sentence)
    if failures:
        raise SetupError("\n".join(failures))
