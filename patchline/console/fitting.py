"""`python -m patchline.console.fitting FOLDER`: the process that fits the memory bank of a lesson.

It lets the line have the CPU and the memory first. It ends with the console, which holds the other end of its standard
input: also before it has loaded what a fit needs.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from patchline.runtime import background


def main(folder: Path) -> None:
    """Fit the lesson of a folder. What goes wrong is in its file `run.json`."""
    background.stand_back()
    threading.Thread(target=_end_with_console, name="console", daemon=True).start()
    from patchline import config
    from patchline.console import lesson_fit
    from patchline.console.lessons import Lesson
    from patchline.protocol.errors import DiskFull, PatchlineError
    from patchline.runtime import disk

    lesson = Lesson(folder)
    started = lesson.run
    if started is None:
        return
    try:
        lesson_fit.fit_lesson(lesson, config.load(folder / "settings.yaml"), started)
    except (DiskFull, OSError) as error:
        if not isinstance(error, DiskFull) and not disk.is_full(error):
            raise
        sys.exit(disk.EXIT_CODE)
    except PatchlineError as error:
        lesson.report(started.model_copy(update={"state": "failed", "problem": str(error)}))


def _end_with_console() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
