"""`python -m bench` runs the whole benchmark. `--check` runs its short form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import check, run
from patchline import config
from patchline.protocol.errors import PatchlineError
from patchline.runtime import logs


def main() -> int:
    """Run the benchmark.

    Returns:
        The exit code: 2, with one line on stderr, if a ratio is out of bounds or something is missing; 0 otherwise.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--check", action="store_true", help="measure a few ratios only and check their bounds")
    options = parser.parse_args()
    logs.configure()
    settings = config.load(Path("config.yaml"))
    try:
        check.run(settings) if options.check else run.run(settings, Path("out/bench.json"))
    except PatchlineError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
