"""A closer look at an archived part: its heat map by replay, and the good patch that is nearest to its hottest one."""

from __future__ import annotations

from patchline.evaluation.neighbours import Nearest, Neighbours
from patchline.inspection import picture
from patchline.inspection.inspector import Inspection
from patchline.operations.look_result import CloserLook, Comparison, Patch
from patchline.operations.replay import Judging, Replay, Replayer


def look(replayer: Replayer, job_id: str) -> CloserLook:
    """Judge the picture of a job again, and draw what that shows.

    Raises:
        Unavailable: the database of the archive does not answer.
    """
    again = replayer.judge(job_id, with_heat_map=True)
    if again.judging is None or again.inspection is None or again.image is None:
        return _plain(again.replay)
    return _plain(again.replay).model_copy(update=_pictures(again.judging, again.inspection, again.image))


def _plain(replay: Replay) -> CloserLook:
    return CloserLook(
        answer=replay.answer,
        score=replay.score,
        again=replay.again,
        other=replay.other,
        missing=replay.missing,
        lack=replay.lack,
    )


def _pictures(judging: Judging, inspection: Inspection, image: tuple[bytes, str]) -> dict[str, object]:
    neighbours = Neighbours.load(judging.inspector, judging.folder)
    nearest = neighbours.find(inspection)
    if inspection.image is None or inspection.heat_map is None or nearest is None:
        return {}
    png = picture.heat_map_png(inspection.image, inspection.heat_map, inspection.regions)
    return {"heat_map": png, "comparison": _comparison(neighbours, judging.inspector.decode(*image), nearest)}


def _comparison(neighbours: Neighbours, image: picture.Picture, nearest: Nearest) -> Comparison:
    good = None if nearest.good is None else _patch(neighbours, nearest.good, nearest.good_patch)
    part = _patch(neighbours, image, nearest.patch)
    return Comparison(
        times=nearest.times,
        trial=neighbours.inspector.thresholds.trial is True,
        part=part,
        origin=nearest.origin,
        name=nearest.name,
        good=good,
    )


def _patch(neighbours: Neighbours, image: picture.Picture, number: int) -> Patch:
    box = neighbours.box(image.shape, number)
    shown = picture.encode_png(picture.close_up(image, box))
    return Patch(x=box.x, y=box.y, width=box.width, height=box.height, shown=shown)
