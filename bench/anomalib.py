"""`python -m bench.anomalib`: our inspection against anomalib's own export of PatchCore, on the same cores.

anomalib is installed into an environment of its own, gets the weights of the same network and the rows of the same
bank, and exports them for OpenVINO (`bench/anomalib_child.py`). Both sides judge the same JPEG from the file on, in the
same precision, without a broker. The installation takes 7 GB in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from bench import bounds, builds, plant, rows, searches
from bench.bounds import Bound
from bench.plant import WIDE
from bench.rows import JPEG
from bench.searches import SHALLOW
from bench.table import Row, calls_per_second, of_this_machine, ratio_row, row_of_rounds
from patchline.inspection.inspector import Inspector, untimed
from patchline.inspection.memory_bank import MemoryBank
from patchline.inspection.search import exact_search
from patchline.runtime import logs
from patchline.services import server

_CHILD = Path(__file__).with_name("anomalib_child.py")
_PACKAGES = ("anomalib[openvino]==2.7.0", "torch==2.14.1", "torchvision==0.29.1")
_CORES = len(os.sched_getaffinity(0))
_PICTURES = 20  # two of them with a scratch
_THEIR_IMAGES = {1638: 240, 16_384: 80}  # in a round, by the rows of the bank
_FASTER = 4  # of ours are measured for one of theirs
BOUNDS = (
    Bound("16384 rows, with heat maps", least=4.0),
    Bound("1638 rows, with heat maps", least=1.5),
)


@dataclass(frozen=True)
class Export:
    """A model that anomalib has exported, and what judges images with it.

    Attributes:
        python: the interpreter of anomalib's environment.
        folder: of the model and of the images.
        precision: of the computation.
    """

    python: Path
    folder: Path
    precision: str

    @classmethod
    def of(cls, python: Path, network: Path, bank: Path, precision: str) -> Export:
        """Let anomalib export a network and the rows of a bank (`.npy`) into a folder beside the bank."""
        export = cls(python, bank.with_suffix(""), precision)
        export.run("export", str(network), str(bank), str(export.folder))
        return export

    def judge(self, images: Path, count: int, precision: str | None = None) -> tuple[float, float]:
        """Judge images in a new process. Return images a second, and the mean of the heat maps.

        Args:
            images: their folder. They are judged again and again.
            count: of them that are judged.
            precision: another one than that of the export.
        """
        model = self.folder / "weights" / "openvino" / "model.xml"
        said = json.loads(self.run("measure", str(model), str(images), precision or self.precision, str(count)))
        return said["per_second"], statistics.fmean(said["means"].values())

    def run(self, *arguments: str) -> str:
        """Run the child. Raises ServiceError with the last line that it says, if it fails."""
        return builds.run([str(self.python), str(_CHILD), *arguments], self.folder.parent, {"PYTHONSAFEPATH": "1"})


def main() -> int:
    """Measure, print, and write `out/bench-anomalib.json`.

    Returns:
        The exit code: 2, with one line on stderr, if something is missing; 0 otherwise.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.anomalib", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of both sides (3)")
    parser.add_argument("--python", type=Path, help="of an environment with anomalib, which is not installed then")
    options = parser.parse_args()
    logs.configure("error")
    try:
        with tempfile.TemporaryDirectory() as name:
            python = options.python or install(Path(name) / "environment")
            table = of_this_machine(list(bounds.judged(list(_rows(Path(name), python, options.rounds)), BOUNDS)))
    except server.ServiceError as error:
        print(f"anomalib: {error}", file=sys.stderr)
        return 2
    table.show()
    table.write(Path("out/bench-anomalib.json"))
    return 0


def install(environment: Path) -> Path:
    """Install anomalib, and the OpenVINO that Patchline uses, into a new environment. Return its interpreter.

    Raises:
        ServiceError: a package cannot be had.
    """
    builds.run([sys.executable, "-m", "venv", str(environment)], environment.parent)
    python = environment / "bin" / "python"
    packages = [*_PACKAGES, f"openvino=={metadata.version('openvino')}"]
    builds.run([str(python), "-m", "pip", "install", "--quiet", *packages], environment.parent)
    return python


def _rows(folder: Path, python: Path, rounds: int) -> Iterator[Row]:
    (folder / "plant").mkdir()
    settings = plant.build(folder / "plant", Path("models"), (WIDE,))
    images = folder / "images"
    images.mkdir()
    for number, image in enumerate(plant.pictures(_PICTURES, JPEG)):
        (images / f"{number:03}.jpg").write_bytes(image)
    fitted = rows.load_inspector(settings, WIDE)
    network = settings.paths.models / f"{fitted.category.backbone}.xml"
    banks, _ = searches.build_banks(SHALLOW)
    for features in banks:
        bank = folder / f"{len(features)}.npy"
        np.save(bank, features)
        inspector = replace(fitted, bank=MemoryBank(exact_search.with_pruning(features), fitted.bank.manifest))
        export = Export.of(python, network, bank, fitted.backbone.precision)
        yield from _compared(f"{len(features)} rows", inspector, export, images, _THEIR_IMAGES[len(features)], rounds)


def _compared(name: str, inspector: Inspector, export: Export, images: Path, count: int, rounds: int) -> Iterator[Row]:
    """Compare images a second, with heat maps of all images and without, and the mean distance of a patch."""
    files = [path.read_bytes() for path in sorted(images.iterdir())]
    with_maps, without, theirs, theirs_f32 = [], [], [], []
    for _ in range(rounds):
        with_maps.append(_per_second(inspector, files, count * _FASTER, with_heat_map=True))
        rate, in_same_precision = export.judge(images, count)
        theirs.append(rate)
        rate, in_f32 = export.judge(images, count, "f32")
        theirs_f32.append(rate)
        without.append(_per_second(inspector, files, count * _FASTER, with_heat_map=False))
    precision = export.precision
    yield row_of_rounds(f"{name}, with heat maps, {precision} : anomalib's export", "images/s", with_maps, theirs)
    yield row_of_rounds(f"{name}, {precision} : anomalib's export with heat maps", "images/s", without, theirs)
    title = f"{name}, in f32 at anomalib, whose distances agree then: ours with heat maps, {precision} : anomalib's"
    yield row_of_rounds(title, "images/s", with_maps, theirs_f32)
    ours = statistics.fmean(_mean_distance(inspector, file) for file in files)
    title = f"{name}: mean distance of a patch, ours in {precision} : anomalib's"
    yield ratio_row(f"{title} in f32", "distance", ours, in_f32)
    yield ratio_row(f"{title} in {precision}", "distance", ours, in_same_precision)


def _per_second(inspector: Inspector, files: list[bytes], count: int, with_heat_map: bool) -> float:
    again = list(itertools.islice(itertools.cycle(files), count))
    return calls_per_second(
        lambda number: inspector.inspect(again[number], JPEG, untimed, with_heat_map), count, _CORES
    )


def _mean_distance(inspector: Inspector, file: bytes) -> float:
    distances = inspector.bank.distances(inspector.features(file, JPEG)).all()
    return float(np.sqrt(distances).mean())


if __name__ == "__main__":
    sys.exit(main())
