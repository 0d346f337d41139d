"""What a new memory bank promises, in the words of a plant."""

from __future__ import annotations

from patchline.inspection.memory_bank import BankManifest, Change, FlaggedShare
from patchline.protocol.messages import Thresholds

_LATEST = 3  # changes that are described


def describe(bank: BankManifest) -> str:
    """Several lines: the thresholds, the images behind them, and what will happen to good parts and to defects."""
    calibration = bank.calibration
    method = "none of them in the bank" if calibration.method == "held-out images" else "each held out in turn"
    groups = f" in {calibration.images} groups" if calibration.images < bank.good_images else ""
    images = f"calibrated on {bank.good_images} good images{groups}, {method}"
    return "\n".join([f"{_thresholds(bank.thresholds)}: {images}", *_changes(bank), *_good_parts(bank), _defects(bank)])


def describe_change(before: BankManifest, after: BankManifest) -> str:
    """Several lines: the thresholds before and after a calibration, and what will happen now."""
    return f"{_thresholds(before.thresholds)} until now\n{describe(after)}"


def _thresholds(thresholds: Thresholds) -> str:
    limits = [] if thresholds.trial else [f"fail from {thresholds.fail:.4g}"]
    limits.append(f"review from {thresholds.review:.4g}")
    if thresholds.patch is not None:
        limits.append(f"{thresholds.patch_rule} from {thresholds.patch:.4g} of one patch")
    return ", ".join(limits)


def _changes(bank: BankManifest) -> list[str]:
    """A line for each of the latest changes by people."""
    earlier = len(bank.changes) - _LATEST
    more = [f"changed {earlier} times before, see changes in manifest.json"] if earlier > 0 else []
    return more + [_change(change) for change in bank.changes[-_LATEST:]]


def _change(change: Change) -> str:
    acts = (("added", change.added), ("removed", change.removed))
    done = "; ".join(f"{act} {', '.join(names)}" for act, names in acts if names)
    if change.thresholds is not None:
        done = f"thresholds set to {_thresholds(change.thresholds)}"
    return f"{change.when} by {change.who}: {done}{f' ({change.why})' if change.why else ''}"


def _good_parts(bank: BankManifest) -> list[str]:
    flagged, failed = bank.calibration.flagged, bank.calibration.failed
    if flagged is None:
        return []
    if bank.thresholds.trial:
        return [
            f"Of 1,000 good parts, expect {per_thousand(flagged)} with review, and none with fail: this is a trial. "
            f"Each bound holds with 95 % confidence. {bank.calibration.images} images do not show how good parts vary, "
            "so a pass means little yet: let a person see every part, and fit again with more images."
        ]
    of_them = f", and {per_thousand(failed)} of them with fail" if failed else ""
    return [
        f"Of 1,000 good parts, expect {per_thousand(flagged)} with review or fail{of_them}. "
        "Each bound holds with 95 % confidence; more good images bring them closer."
    ]


def _defects(bank: BankManifest) -> str:
    calibration = bank.calibration
    if calibration.missed is not None:
        return (
            f"Of 1,000 defects like the {calibration.defects} of this calibration, expect "
            f"{per_thousand(calibration.missed)} to pass. Other kinds of defects can be harder to see."
        )
    return (
        "How many defects will pass is unknown, because there were none among these images. To measure it: "
        f"patchline evaluate --category {bank.category} FOLDER, with labelled images of good parts and defects; "
        f"to set it: patchline calibrate --category {bank.category} --max-missed SHARE DEFECTS"
    )


def per_thousand(share: FlaggedShare) -> str:
    """The number of 1,000 parts, with its bounds."""
    return f"about {_count(share.expected)} ({_count(share.lower)} to {_count(share.upper)})"


def _count(share: float) -> str:
    """A share as a number of 1,000 parts: rounded to a part, or to one digit below one part."""
    return f"{1000 * share:.0f}" if share >= 0.001 else f"{1000 * share:.1g}"
