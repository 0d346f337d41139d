"""Compares what a shadow bank would have said with the verdicts on the same images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from patchline import config
from patchline.archive.ledger import Ledger
from patchline.archive.shadows import ShadowCount, Shadowed, ShadowSearch
from patchline.archive.times import iso
from patchline.banks.version_log import SHORT, State
from patchline.evaluation import intervals
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision


@dataclass(frozen=True)
class Table:
    """The parts that a bank and a shadow have judged, by who rejects them.

    Attributes:
        bank_version: the digest of the bank of the verdicts.
        both: are rejected by both.
        bank_only: are rejected, and the shadow would have accepted them.
        shadow_only: are accepted, and the shadow would have rejected them.
        neither: are accepted by both.
        p_value: of McNemar's exact test: two banks that reject as often differ at least as much with this probability.
    """

    bank_version: str
    both: int
    bank_only: int
    shadow_only: int
    neither: int
    p_value: float

    @property
    def rejects_more(self) -> Literal["bank", "shadow"] | None:
        """Which of the two rejects more, beyond chance; None if these parts do not show it."""
        if self.p_value > 1 - intervals.CONFIDENCE:
            return None
        return "shadow" if self.shadow_only > self.bank_only else "bank"

    def __str__(self) -> str:
        """The table in words."""
        parts = self.both + self.bank_only + self.shadow_only + self.neither
        rows = (
            f"{parts} parts that {self.bank_version[:SHORT]} has judged:",
            f"  {self.both} rejected by both, {self.neither} accepted by both",
            f"  {self.bank_only} rejected, and the shadow would have accepted them",
            f"  {self.shadow_only} accepted, and the shadow would have rejected them",
            f"  McNemar's exact test: p = {self.p_value:.3g}{_meaning(self)}",
        )
        return "\n".join(rows)


@dataclass(frozen=True)
class Report:
    """A comparison.

    Attributes:
        tables: one for each bank that has served meanwhile.
        different: the parts on which the decisions differ, the latest first.
        more: there are further ones.
    """

    category: str
    shadow_version: str
    tables: tuple[Table, ...]
    different: tuple[Shadowed, ...]
    more: bool

    def __str__(self) -> str:
        """The report for a terminal."""
        if not self.tables:
            return f"{self.category}: the archive has no part that the shadow {self.shadow_version[:SHORT]} has judged"
        lines = [f"{self.category}: shadow {self.shadow_version[:SHORT]}", *map(str, self.tables)]
        lines.append("Images that come while a worker is busy are left out: see patchline_shadow_skipped_total.")
        lines.append(f"{len(self.different)} parts with two decisions{', and more: see --most' if self.more else ''}:")
        lines += [
            f"  {iso(row.judged_at)}  part {row.part_id}, job {row.job_id}, line {row.line}: {row.decision} "
            f"(score {row.score:.6g}), shadow {row.shadow_decision} (score {row.shadow_score:.6g})"
            for row in self.different
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        parts = [{name: value for name, value in asdict(row).items() if name != "document"} for row in self.different]
        tables = [asdict(table) for table in self.tables]
        return {"category": self.category, "shadow_version": self.shadow_version, "tables": tables, "different": parts}


def make(archive: Ledger, search: ShadowSearch, gate: config.Gate, most: int | None) -> Report:
    """Compare.

    Args:
        archive: the archive.
        search: which parts.
        gate: says whether parts in review are rejected, by line and category.
        most: the number of parts to name at most; None: all.

    Raises:
        Unavailable: see `base.Archive`.
    """
    counts = archive.shadow_counts(search)
    named = list(itertools.islice(archive.shadow_differences(search), None if most is None else most + 1))
    versions = dict.fromkeys(count.bank_version for count in counts)
    tables = tuple(
        _table(version, [count for count in counts if count.bank_version == version], search.category, gate)
        for version in versions
    )
    more = most is not None and len(named) > most
    return Report(search.category, search.version, tables, tuple(named[:most]), more)


def last_shadow(state: State, category: str) -> str:
    """Return the version that is the shadow, or was it last. Raise SetupError if there was none."""
    found = [record.version for record in state.records if record.act == "shadow"]
    if not found:
        raise SetupError(
            f"{category}: no version was a shadow; make one with: patchline banks shadow {category} VERSION"
        )
    return found[-1]


def _table(version: str, counts: Iterable[ShadowCount], category: str, gate: config.Gate) -> Table:
    sums: Counter[tuple[bool, bool]] = Counter()
    for count in counts:
        rejected = {Decision.FAIL.value}
        if gate.rules(count.line, category).review_action == "reject":
            rejected.add(Decision.REVIEW.value)
        sums[count.decision in rejected, count.shadow_decision in rejected] += count.parts
    bank_only, shadow_only = sums[True, False], sums[False, True]
    p_value = intervals.mcnemar(bank_only, shadow_only)
    return Table(version, sums[True, True], bank_only, shadow_only, sums[False, False], p_value)


def _meaning(table: Table) -> str:
    if table.rejects_more is None:
        return "; these parts do not show that one of them rejects more"
    return f"; the {table.rejects_more} rejects more, beyond chance"
