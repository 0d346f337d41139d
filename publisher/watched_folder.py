"""What is known about the images in a watched folder, and which of them are complete. Knows no files and no clock.

Every image is in one of four states:

    arrived -> resting -> complete -> taken

It has arrived when an event names it. It rests from its first observation on: an image is complete once its writer has
closed it or moved it in, or when it has not changed for `rest_s`; for `open_rest_s`, if its writer is known to have it
open. All images rest at the same time, so one that never rests holds up no other. A complete image whose content ends
too early rests once more, for `incomplete_rest_s`, and is then complete as it is. A taken image becomes new when its
signature changes. Events tell whether its content is new, too.

Paths are relative to the folder. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Signature(NamedTuple):
    """What tells two contents of one path apart, as far as the file system knows."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class State(StrEnum):
    """The state of an image."""

    ARRIVED = "arrived"
    RESTING = "resting"
    COMPLETE = "complete"
    TAKEN = "taken"


@dataclass(slots=True)
class _Image:
    """An image that is not taken yet.

    Attributes:
        state: arrived, resting or complete.
        due: when to look at it (again).
        closed: its writer has closed it or moved it in since the last observation.
        open: its writer has created it or written into it, and has not closed it.
        new_content: it was written into or moved in since it was last taken.
        signature: that of the last observation.
        changed: when it was first seen with this signature.
        rest_s: how long it has to stay unchanged.
        incomplete: its content ends too early.
    """

    state: State
    due: float
    closed: bool
    signature: Signature | None
    changed: float
    rest_s: float
    incomplete: bool = False
    open: bool = False
    new_content: bool = False


class WatchedFolder:
    """The images of a folder and their states.

    Args:
        rest_s: an image that has not changed for this long is complete.
        incomplete_rest_s: the same for an image whose content ends too early.
        open_rest_s: the same for an image whose writer is known to have it open.
        taken: the images that are taken already.
    """

    def __init__(
        self, rest_s: float, incomplete_rest_s: float, open_rest_s: float, taken: Mapping[str, Signature]
    ) -> None:
        self._rest_s, self._open_rest_s = rest_s, open_rest_s
        self._incomplete_rest_s = incomplete_rest_s
        self._images: dict[str, _Image] = {}
        self._taken = dict(taken)
        self._vanished: list[str] = []

    def arrive(self, path: str, now: float, closed: bool = False, written: bool = False, moved: bool = False) -> None:
        """Note an event.

        Args:
            path: of the image.
            now: the time.
            closed: its writer has closed it.
            written: its writer has created it or written into it, and has it open.
            moved: it was moved in.
        """
        image = self._images.get(path)
        if image is None:
            image = self._images[path] = _Image(State.ARRIVED, now, False, None, now, self._rest_s)
        image.due = now
        image.closed = closed or moved or (image.closed and not written)
        image.open = written or (image.open and not image.closed)
        image.new_content |= written or moved

    def observe(self, path: str, signature: Signature, now: float) -> None:
        """Note what a look at an image has shown."""
        image = self._images.get(path)
        if self._taken.get(path) == signature and (image is None or not image.closed):
            self._images.pop(path, None)
            return
        if image is None:
            image = self._images[path] = _Image(State.RESTING, now, False, None, now, self._rest_s)
        if image.signature != signature:
            image.state = State.RESTING
            image.signature, image.changed, image.incomplete = signature, now, False
        if not image.incomplete:
            image.rest_s = self._open_rest_s if image.open else self._rest_s
        closed, image.closed = image.closed and not image.incomplete, False
        image.due = image.changed + image.rest_s
        if closed or now >= image.due:
            image.state = State.COMPLETE

    def vanish(self, path: str) -> None:
        """Note that an image that is not taken is gone."""
        image = self._images.pop(path, None)
        if image is not None and image.state is State.COMPLETE:
            self._vanished.append(path)

    def take_vanished(self) -> list[str]:
        """Return the complete images that are gone and were never taken, since the last call."""
        vanished, self._vanished = self._vanished, []
        return vanished

    def list_all(self, listing: Mapping[str, Signature], now: float) -> None:
        """Note a listing of the whole folder."""
        for path in self._images.keys() - listing.keys():
            self.vanish(path)
        for path, signature in listing.items():
            if self._taken.get(path) != signature:
                self.observe(path, signature, now)

    def forget_missing(self, listing: Mapping[str, Signature]) -> set[str]:
        """Forget the taken images that a complete listing no longer has, and return them.

        Forget none if the listing has none of them: then another folder may be mounted there.
        """
        missing = self._taken.keys() - listing.keys()
        if len(missing) == len(self._taken):
            return set()
        for path in missing:
            del self._taken[path]
        return missing

    def due(self, now: float) -> list[str]:
        """Return the images to look at now."""
        return [path for path, image in self._images.items() if image.state is not State.COMPLETE and image.due <= now]

    def next_due(self) -> float | None:
        """Return when to look at an image next, or None if none waits for it."""
        return min((image.due for image in self._images.values() if image.state is not State.COMPLETE), default=None)

    @property
    def has_complete(self) -> bool:
        """True if an image is complete."""
        return any(image.state is State.COMPLETE for image in self._images.values())

    def complete(self) -> dict[str, Signature]:
        """Return the complete images."""
        return {
            path: image.signature
            for path, image in self._images.items()
            if image.state is State.COMPLETE and image.signature is not None
        }

    def is_new_content(self, path: str) -> bool:
        """Return True if events told that an image was written into or moved in since it was last taken."""
        return self._images[path].new_content

    def has_rested_as_incomplete(self, path: str) -> bool:
        """Return True if an image was found to end too early, and has not changed for long since."""
        image = self._images[path]
        return image.state is State.COMPLETE and image.incomplete

    def rest_as_incomplete(self, path: str, now: float, limit_s: float) -> None:
        """Let a complete image, whose content ends too early, rest for longer: `incomplete_rest_s` or `limit_s`."""
        image = self._images[path]
        image.state, image.changed, image.incomplete = State.RESTING, now, True
        image.rest_s = min(self._incomplete_rest_s, limit_s)
        image.due = now + image.rest_s

    def retry(self, path: str, due: float) -> None:
        """Look at a complete image again later, since it cannot be read now."""
        image = self._images[path]
        image.state, image.due = State.RESTING, due

    def take(self, path: str, signature: Signature) -> None:
        """Note that an image was taken."""
        self._images.pop(path, None)
        self._taken[path] = signature

    def state(self, path: str) -> State | None:
        """Return the state of an image, or None if there is none."""
        image = self._images.get(path)
        if image is not None:
            return image.state
        return State.TAKEN if path in self._taken else None

    def counts(self) -> dict[State, int]:
        """Return the number of images in each state."""
        counts = dict.fromkeys(State, 0) | {State.TAKEN: len(self._taken)}
        for image in self._images.values():
            counts[image.state] += 1
        return counts
