"""Lessons: the pictures from which a version of a memory bank is made, each in a folder of its own.

Layout, below the folder of a lesson:
    `lesson.json`: what people chose, see `lesson_files.Note`.
    `good/NAME`, `defects/KIND/NAME`: the pictures, as they were uploaded or archived.
    `small/...`: each picture once more, as small as pages show it.
    `run.json`, `settings.yaml`, `log.txt`, `tiles/`, `bank/`: of the latest fit.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from patchline import config
from patchline.console import lesson_files, picture_names
from patchline.console.lesson_files import Note, Run
from patchline.inspection import decode, picture
from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError, Unusable
from patchline.runtime import disk, uptime

_log = structlog.get_logger(__name__)
GOOD = "good"
_ID = re.compile(r"\d{13}-[0-9a-f]{8}")
_DAY_MS = 86_400_000
_SET_MS = 3_600_000  # a clock that is corrected by less is not set
_MOST_OF_A_NAME = 1_000
_SMALL_SIDE = 192  # pixels


@dataclass(frozen=True)
class Lesson:
    """A lesson. All methods raise SetupError if a file cannot be read or written."""

    folder: Path

    @property
    def id(self) -> str:
        """Its name in links."""
        return self.folder.name

    @property
    def note(self) -> Note:
        """What people chose."""
        note = lesson_files.read(self.folder / "lesson.json", Note)
        if note is None:
            raise SetupError(f"{self.folder}: has no lesson.json; delete this folder")
        return note

    def choose(self, note: Note) -> None:
        """Keep what people chose."""
        lesson_files.write(self.folder / "lesson.json", note.model_dump_json(indent=2).encode() + b"\n")

    @property
    def run(self) -> Run | None:
        """How the latest fit goes or ended; None if there was none."""
        return lesson_files.read(self.folder / "run.json", Run)

    def report(self, run: Run) -> None:
        """Keep how the fit goes."""
        lesson_files.write(self.folder / "run.json", run.model_dump_json().encode() + b"\n")

    @property
    def good_folder(self) -> Path:
        """The folder of the good pictures."""
        return self.folder / GOOD

    def good(self) -> list[str]:
        """Return the names of the good pictures."""
        return sorted(path.name for path in _files(self.good_folder))

    def defects(self) -> list[tuple[str, str]]:
        """Return the kind and the name of each picture of a defect."""
        return sorted((path.parent.name, path.name) for path in _files(self.folder / "defects"))

    def size(self) -> tuple[int, int]:
        """Return how many pictures there are, and their bytes."""
        files = [*_files(self.good_folder), *_files(self.folder / "defects")]
        return len(files), sum(path.stat().st_size for path in files)

    def add(self, kind: str, name: str, body: bytes, limits: config.Images, category: config.Category) -> str | None:
        """Add a picture that the line could judge.

        Args:
            kind: `good`, or the kind of a defect.
            name: of the file that was uploaded.
            body: its content.
            limits: of images.
            category: of the lesson.

        Returns:
            Why it is refused; None if it was added.
        """
        content_type = image_files.content_type_of(Path(name), body)
        try:
            rgb = decode.decode(body, content_type, limits, category.depth)
        except Unusable as error:
            return error.detail
        folder = self.good_folder if kind == GOOD else self.folder / "defects" / kind
        path = _free(folder, name, picture_names.SUFFIXES[content_type])
        if path is None:
            return "there are a thousand of this name"
        small = self._small(path)
        try:
            for each, content in ((small, picture.encode_jpeg(picture.shrink(rgb, _SMALL_SIDE))), (path, body)):
                each.parent.mkdir(parents=True, exist_ok=True)
                lesson_files.write(each, content)
        except (OSError, SetupError) as error:
            small.unlink(missing_ok=True)
            raise error if isinstance(error, SetupError) else disk.unwritable(folder, error) from error
        return None

    def small(self, kind: str, name: str) -> bytes | None:
        """Return a picture as pages show it, a JPEG file; None if there is none."""
        below = self.good_folder / name if kind == GOOD else self.folder / "defects" / kind / name
        return _content(self._small(below), self.folder / "small")

    def tile(self, name: str) -> bytes | None:
        """Return a picture with its heat map, a JPEG file; None if there is none."""
        return _content(self.folder / "tiles" / name, self.folder / "tiles")

    def _small(self, path: Path) -> Path:
        return self.folder / "small" / path.relative_to(self.folder).with_name(path.name + ".jpg")


class Lessons:
    """All lessons of a console. All methods raise SetupError if a folder cannot be used.

    Args:
        folder: of the lessons; is made if it is missing.
        keep_days: a lesson is deleted this long after anything was done with it.
        now_ms: the wall clock.
        clock: seconds that never go back.
    """

    def __init__(
        self, folder: Path, keep_days: int, now_ms: Callable[[], int], clock: Callable[[], float] = uptime.boot_s
    ) -> None:
        self.folder, self._now_ms, self._clock = folder, now_ms, clock
        self._keep_ms = keep_days * _DAY_MS
        self._offset = self._clock_offset()

    def begin(self, category: str, by: str) -> Lesson:
        """Begin a lesson."""
        self.sweep()
        now = self._now_ms()
        lesson = Lesson(self.folder / f"{now:013}-{secrets.token_hex(4)}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lesson.good_folder.mkdir(parents=True)
            lesson.choose(Note(category=category, by=by, begun_at=now))
        except (OSError, SetupError) as error:
            self.remove(lesson)
            raise error if isinstance(error, SetupError) else disk.unwritable(self.folder, error) from error
        return lesson

    def find(self, name: str) -> Lesson | None:
        """Return a lesson by its name in links; None if there is none."""
        lesson = Lesson(self.folder / name)
        return lesson if _ID.fullmatch(name) and lesson.folder.is_dir() else None

    def all(self) -> list[Lesson]:
        """Return all lessons, the latest first."""
        if not self.folder.is_dir():
            return []
        names = sorted((path.name for path in self.folder.iterdir() if _ID.fullmatch(path.name)), reverse=True)
        return [Lesson(self.folder / name) for name in names]

    def remove(self, lesson: Lesson) -> None:
        """Delete a lesson with its pictures. What was published stays in the store."""
        shutil.rmtree(lesson.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the lessons with which nobody has done anything for long.

        None is deleted by a clock that was set since the start of the console: it may be years ahead.
        """
        if abs(self._clock_offset() - self._offset) > _SET_MS:
            return
        for lesson in self.all():
            touched_ms = max((path.stat().st_mtime_ns // 1_000_000 for path in _times(lesson.folder)), default=0)
            if self._now_ms() - touched_ms > self._keep_ms:
                _log.info("lesson deleted, since nothing was done with it for long", lesson=lesson.id)
                self.remove(lesson)

    def _clock_offset(self) -> float:
        return self._now_ms() - 1000 * self._clock()


def is_kind(name: str) -> bool:
    """Return True if a kind of defect can be the name of a folder."""
    return re.fullmatch(messages.NAME_PATTERN, name) is not None and name != GOOD


def _times(folder: Path) -> Iterator[Path]:
    yield from (path for path in (folder, *folder.glob("*")) if path.exists())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def _content(path: Path, within: Path) -> bytes | None:
    """Return a file below a folder; None if there is none, or if the path leads out of it."""
    if not path.resolve().is_relative_to(within.resolve()) or not path.is_file():
        return None
    return path.read_bytes()


def _free(folder: Path, name: str, suffix: str) -> Path | None:
    """Return a path for a picture of any name, with the suffix of its content; None if there is none."""
    stem = picture_names.stem(name)
    for number in range(1, 1 + _MOST_OF_A_NAME):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"
        if not path.exists():
            return path
    return None
