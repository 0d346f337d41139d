"""A version of a memory bank with thresholds that a person has chosen: the same rows, and who chose them and why."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pydantic

from patchline.banks import one_by_one, store
from patchline.banks.held_out import HeldOut
from patchline.banks.served_banks import ServedBanks
from patchline.banks.shares import share_from_count
from patchline.banks.version_log import SHORT
from patchline.banks.versions import Versions
from patchline.inspection.memory_bank import BankManifest, Calibration, Change
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds


def publish(versions: Versions, category: str, version: str, review: float, fail: float, who: str, why: str) -> str:
    """Publish a version with the rows of another one and with other thresholds. It is not active yet.

    The threshold of the hottest patch stays. What the bank says of good parts is calculated anew from its held-out
    images; what it says of defects is dropped, since it was measured at the thresholds before.

    Args:
        versions: the store.
        category: of the bank.
        version: whose rows they are.
        review: the score from which a part is reviewed.
        fail: the score from which a part fails.
        who: acts.
        why: in words.

    Returns:
        The new version.

    Raises:
        StoreUnavailable: the store cannot be used now.
        SetupError: the thresholds make no sense or are those of the version, or it is retired, damaged, or unknown.
    """
    state = versions.state(category)
    record = state.published_as(version)
    if record is None:
        raise SetupError(f"{category}: {version[:SHORT]} is no version")
    if version in state.retired:
        raise SetupError(f"{category}: version {version[:SHORT]} is retired")
    with tempfile.TemporaryDirectory(prefix="patchline-thresholds-") as temporary:
        folder = ServedBanks(Path(temporary), versions).copy(category, record)
        before = store.load(folder).manifest
        after = _with(before, folder, _limits(before.thresholds, review, fail), who, why)
        store.replace_manifest(folder, after)
        return versions.publish(folder, category, who, why)[0]


def _limits(before: Thresholds, review: float, fail: float) -> Thresholds:
    if (review, fail) == (before.review, before.fail):
        raise SetupError(f"the version has these thresholds already: review from {review:g}, fail from {fail:g}")
    try:
        return Thresholds.model_validate(before.model_dump() | {"review": review, "fail": fail})
    except pydantic.ValidationError as error:
        raise SetupError(f"these thresholds make no sense: {messages.describe(error)}") from error


def _with(before: BankManifest, folder: Path, limits: Thresholds, who: str, why: str) -> BankManifest:
    change = Change(when=one_by_one.now(), who=who, why=why, thresholds=limits)
    calibrated = _calibration(before, folder, limits)
    changed = {"thresholds": limits, "calibration": calibrated, "changes": (*before.changes, change)}
    return before.model_copy(update=changed)


def _calibration(before: BankManifest, folder: Path, limits: Thresholds) -> Calibration:
    """What the thresholds do to good parts, from the held-out images; nothing of banks that keep none."""
    unknown = {"flagged": None, "failed": None, "defects": None, "missed": None}
    if before.held_out_sha256 is None:
        return before.calibration.model_copy(update=unknown)
    held_out = HeldOut.read(folder, before.held_out_sha256)
    scores, hottest = held_out.group_scores(before.score), held_out.group_scores("max")
    hot = hottest >= (float("inf") if limits.patch is None else limits.patch)
    fails = (scores >= limits.fail) | (hot & (limits.patch_rule == "fail"))
    flagged = share_from_count(scores.size, int(((scores >= limits.review) | hot | fails).sum()))
    failed = share_from_count(scores.size, int(fails.sum()))
    rates = {"review_rate": flagged.expected, "false_reject_rate": failed.expected}
    known = {"flagged": flagged, "failed": None if limits.trial else failed}
    return before.calibration.model_copy(update=unknown | rates | known)
