"""What a new memory bank promises, in the words of a plant."""

from __future__ import annotations

from patchline.inspection.memory_bank import BankManifest, FlaggedShare


def describe(bank: BankManifest) -> str:
    """Several lines: the thresholds, the images behind them, and what will happen to good parts and to defects."""
    calibration = bank.calibration
    method = "none of them in the bank" if calibration.method == "held-out images" else "each held out in turn"
    groups = f" in {calibration.images} groups" if calibration.images < bank.good_images else ""
    lines = [
        f"fail from {bank.thresholds.fail:.4g}, review from {bank.thresholds.review:.4g}: "
        f"calibrated on {bank.good_images} good images{groups}, {method}"
    ]
    if calibration.flagged is not None and calibration.failed is not None:
        lines.append(
            f"Of 1,000 good parts, expect {per_thousand(calibration.flagged)} with review or fail, "
            f"and {per_thousand(calibration.failed)} of them with fail. Each bound holds with 95 % confidence; "
            "more good images bring them closer."
        )
    lines.append(
        "How many defects will pass is unknown, because there were none among these images. To measure it: "
        f"patchline evaluate --category {bank.category} FOLDER, with labelled images of good parts and defects"
    )
    return "\n".join(lines)


def per_thousand(share: FlaggedShare) -> str:
    """The number of 1,000 parts, with its bounds."""
    return f"about {_count(share.expected)} ({_count(share.lower)} to {_count(share.upper)})"


def _count(share: float) -> str:
    """A share as a number of 1,000 parts: rounded to a part, or to one digit below one part."""
    return f"{1000 * share:.0f}" if share >= 0.001 else f"{1000 * share:.1g}"
