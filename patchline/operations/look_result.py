"""What a replay and a closer look have found. Nothing here computes: the console, which shows it, loads no model."""

from __future__ import annotations

from enum import StrEnum

import pydantic

from patchline.banks.row_origins import Origin
from patchline.protocol.messages import Frozen


class Answer(StrEnum):
    """What a replay has found."""

    SAME = "same score"
    OTHER = "another score"
    IMPOSSIBLE = "cannot be replayed"


class Lack(StrEnum):
    """What a replay needs and has not."""

    VERDICT = "verdict"
    SCORE = "score"
    IMAGE = "image"
    BANK = "bank"
    MODEL = "model"


_WITH_BYTES = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Patch(Frozen):
    """A patch and its surroundings.

    Attributes:
        x: of its left edge, as the next ones in pixels of the captured image.
        shown: a PNG of the surroundings with the outline of the patch.
    """

    model_config = _WITH_BYTES

    x: int
    y: int
    width: int
    height: int
    shown: bytes


class Comparison(Frozen):
    """The hottest patch of a part beside the nearest good one.

    Attributes:
        times: the distance of the two, in fail thresholds; in a trial, which has none, in those of a review.
        trial: the bank is one.
        part: the hottest patch.
        origin: what is known of the good picture.
        name: of the good picture, below the folder of all good pictures; empty if the bank does not say it.
        good: the good patch; None unless its picture was found.
    """

    times: float
    trial: bool
    part: Patch
    origin: Origin
    name: str
    good: Patch | None


class CloserLook(Frozen):
    """What a replay shows.

    Attributes:
        answer: whether the replay gives the score of the verdict.
        score: of the verdict.
        again: the score of the replay.
        other: what is not as it was, in words.
        missing: why it cannot be replayed, in words.
        lack: what is missing.
        heat_map: a PNG, drawn as a worker draws it.
        comparison: with the bank; None if there is no heat map.
    """

    model_config = _WITH_BYTES

    answer: Answer
    score: float | None = None
    again: float | None = None
    other: tuple[str, ...] = ()
    missing: str | None = None
    lack: Lack | None = None
    heat_map: bytes | None = None
    comparison: Comparison | None = None
