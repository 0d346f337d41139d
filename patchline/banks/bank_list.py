"""The versions of a category in rows of a table, and its audit log in lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from patchline.banks import reports
from patchline.banks.version_log import SHORT, Record
from patchline.banks.versions import Versions
from patchline.protocol.errors import SetupError

COLUMNS = ("version", "state", "made", "published by", "of", "rows", "review", "fail", "workers")


def rows(
    versions: Versions, category: str, serving: Mapping[tuple[str, str], int] | None = None
) -> list[tuple[str, ...]]:
    """Return a row for each version of a category, the newest first.

    Args:
        versions: the store.
        category: of the versions.
        serving: the number of workers by category and version; None if they cannot be asked.

    Raises:
        SetupError: the log cannot be read.
    """
    state = versions.state(category)
    found = []
    for record in reversed(state.published):
        count = "?" if serving is None else str(serving.get((category, record.version), 0))
        made, *contents = _contents(versions, category, record)
        name = record.version[:SHORT], state.state_of(record.version)
        found.append((*name, made, record.who, *contents, count))
    return found


def log(versions: Versions, category: str) -> Iterator[str]:
    """Yield the audit log of a category as JSON objects: acts of people in their order, and reports of workers by time.

    Raises:
        SetupError: the log cannot be read.
    """
    said = [report for content in versions.reports(category) if (report := reports.parse(content)) is not None]
    latest, lines = 0, list[tuple[int, Record | reports.Report]]()
    for record in versions.state(category).records:  # the clock of one who acts later may be behind
        latest = max(latest, record.when)
        lines.append((latest, record))
    lines += [(report.when, report) for report in said]
    for _, line in sorted(lines, key=lambda line: line[0]):
        yield line.model_dump_json(exclude={"format", "after", "files"}, exclude_none=True)


def _contents(versions: Versions, category: str, record: Record) -> tuple[str, ...]:
    try:
        bank = versions.manifest(category, record.version)
    except SetupError as error:
        return "?", str(error), "?", "?", "?"
    limits = bank.thresholds
    fail = "never" if limits.trial else f"{limits.fail:.4g}"
    of = f"{bank.good_images} images, {bank.backbone}{' (trial)' if limits.trial else ''}"
    return bank.created_at[:16].replace("T", " "), of, str(bank.patches), f"{limits.review:.4g}", fail
