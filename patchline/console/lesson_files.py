"""What is written of a lesson: what people chose, how its fit goes, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic
from pydantic import Field

from patchline.evaluation.held_out_figures import DefectFigures
from patchline.inspection.memory_bank import FlaggedShare, Sha256
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Frozen, Thresholds
from patchline.runtime import disk

State = Literal["running", "outliers", "failed", "cancelled", "done"]
Some = TypeVar("Some", bound=Frozen)


class Note(Frozen):
    """What people chose.

    Attributes:
        by: who began the lesson.
        trial: the bank may be made of few pictures, and answers `review` at most.
        left_out: names of good pictures that are not used.
        accepted: names of good pictures that stand out, and are used all the same.
    """

    format: Literal["patchline.lesson.v1"] = "patchline.lesson.v1"
    category: messages.Name
    by: str
    begun_at: messages.EpochMs
    trial: bool = False
    left_out: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


class Outlier(Frozen):
    """A good picture that stands out from the others.

    Attributes:
        score: against the other pictures; 1 is the highest of those that do not stand out.
        p_value: how probable such a score is among good pictures.
        tile: the file of the picture with its heat map; empty if it was not drawn.
    """

    name: str
    score: float
    p_value: float
    tile: str = ""


class JudgedDefect(Frozen):
    """A picture of a defect, as the new bank judges it."""

    kind: str
    name: str
    score: float
    decision: messages.Decision


class Result(Frozen):
    """A new version, and how it judges.

    Attributes:
        version: of the bank, in the store.
        good_images: that were used.
        good_scores: of each of them, held out in turn.
        flagged: the share of good parts that will need a review or fail; None if that is not known.
        failed: that will fail.
        left_out: how many pictures were not used, by the reason.
        defects: that were judged.
        figures: of these defects; None if there are none.
    """

    version: Sha256
    thresholds: Thresholds
    good_images: int
    good_scores: tuple[float, ...]
    flagged: FlaggedShare | None
    failed: FlaggedShare | None
    left_out: dict[str, int]
    defects: tuple[JudgedDefect, ...] = ()
    figures: DefectFigures | None = None


class Run(Frozen):
    """How a fit goes, or how it ended.

    Attributes:
        by: who started it.
        step: what it does now, as the progress bar of `patchline fit` calls it.
        done: of this step.
        total: of this step; 0 if that is not known.
        problem: why it failed.
        outliers: that a person must look at first.
    """

    state: State
    by: str
    began_at: messages.EpochMs
    step: str = ""
    done: Annotated[int, Field(ge=0)] = 0
    total: Annotated[int, Field(ge=0)] = 0
    problem: str = ""
    outliers: tuple[Outlier, ...] = ()
    result: Result | None = None


def read(path: Path, kind: type[Some]) -> Some | None:
    """Read a file of a lesson; None if there is none. Raises SetupError: it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {messages.describe(error)}; delete this lesson") from error


def write(path: Path, content: bytes) -> None:
    """Write a file in one step: who reads it meanwhile, or after a power failure, sees the old one or the new one.

    Raises:
        SetupError: it cannot be written.
    """
    try:
        disk.replace_file(path, content)
    except OSError as error:
        raise disk.unwritable(path, error) from error
