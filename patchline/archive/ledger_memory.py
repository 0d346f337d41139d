"""An archive in memory with the ledger of each part, for tests. It keeps the contract of `ledger.Ledger`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from patchline.archive.base import Record, Saved, Unreadable, is_of_bank
from patchline.archive.ledger import (
    OF_A_SENSOR,
    SEEN,
    Acted,
    Announced,
    Count,
    Entry,
    Found,
    Gap,
    GapKind,
    GapSearch,
    Judged,
    LabelledScore,
    LabelSearch,
    judged,
    newest,
    newest_of_each,
)
from patchline.archive.memory import MemoryArchive
from patchline.archive.scores import BankUse, ScoreCounts, ScoreKey, ScoreSearch, key_of, merged
from patchline.archive.shadows import ShadowCount, Shadowed, ShadowSearch

_FLAGGED = ("pass", "review", "fail")


class MemoryLedger(MemoryArchive):
    """Implements `patchline.archive.ledger.Ledger`. While `away` is set it does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[tuple[str, ...], Entry] = {}

    def save_ledger(self, entries: list[Entry], unreadable: list[Unreadable]) -> Saved:
        """See `ledger.Ledger`."""
        saved = self.save([], unreadable)
        added = Counter[type[Entry]]()
        for entry in entries:
            apart = entry.shadow_version if isinstance(entry, Shadowed) else getattr(entry, "digest", "")
            key = (type(entry).__name__, entry.job_id, apart)
            added[type(entry)] += key not in self._entries
            self._entries.setdefault(key, entry)
        names = ("announcements", "acts", "outcomes", "judgements", "shadows")
        kinds = dict(zip(names, (Announced, Acted, Found, Judged, Shadowed), strict=True))
        return saved + Saved(**{name: added[kind] for name, kind in kinds.items()})

    def all_entries(self) -> list[Entry]:
        """Return everything beside the verdicts."""
        self.check()
        return list(self._entries.values())

    def jobs_of(self, name: str, most: int) -> list[str]:
        """See `ledger.Ledger`."""
        self.check()
        times: dict[str, int] = defaultdict(int)
        for row in (*self._entries.values(), *self._verdicts.values()):
            if name in (row.job_id, getattr(row, "part_id", None)):
                times[row.job_id] = max(times[row.job_id], _time(row))
        return sorted(times, key=lambda job_id: (-times[job_id], job_id))[:most]

    def entries(self, job_id: str) -> list[Entry]:
        """See `ledger.Ledger`."""
        self.check()
        found = [entry for entry in self._entries.values() if entry.job_id == job_id]
        return sorted(found, key=lambda entry: entry.archived_at)

    def judgements_of(self, job_ids: Sequence[str]) -> dict[str, Judged]:
        """See `ledger.Ledger`."""
        self.check()
        given = (row for row in self._entries.values() if isinstance(row, Judged) and row.job_id in job_ids)
        return newest_of_each(given)

    def gaps(self, kind: GapKind, search: GapSearch) -> Iterator[Gap]:
        """See `ledger.Ledger`."""
        self.check()
        found: dict[str, Gap] = {}
        rows = [row for row in self._entries.values() if isinstance(row, Announced | Acted)]
        for row in sorted(rows, key=lambda row: (-_time(row), row.job_id)):
            at = _time(row)
            within = at < search.until and (search.since is None or at >= search.since)
            within = within and search.line in (None, row.line) and search.job_id in (None, row.job_id)
            if within and self._is_gap(kind, row, search):
                verdict = self._verdicts.get(row.job_id)
                detail = row.because if isinstance(row, Acted) else None if verdict is None else verdict.decision
                gap = Gap(kind, row.job_id, row.line, row.category, row.part_id, row.number, at, detail)
                found.setdefault(row.job_id, gap)
        yield from list(found.values())[: search.most]

    def _is_gap(self, kind: GapKind, row: Announced | Acted, search: GapSearch) -> bool:
        if isinstance(row, Announced):
            due = row.deadline is None or row.deadline < search.until
            return kind is GapKind.NO_ACT and due and not self._has_done(row.job_id)
        rules: dict[GapKind, tuple[str, Callable[[], bool]]] = {
            GapKind.OPPOSITE_ACTS: ("reject", lambda: self._has_done(row.job_id, "accept")),
            GapKind.NOT_PASSED: ("accept", lambda: not self._may_be_accepted(row.job_id)),
            GapKind.NOT_CONFIRMED: ("reject", lambda: self._misses_confirmation(row)),
        }
        action, is_wrong = rules.get(kind, ("", lambda: False))
        return row.state == "done" and row.action == action and is_wrong()

    def _has_done(self, job_id: str, action: str | None = None) -> bool:
        acts = (row for row in self._entries.values() if isinstance(row, Acted) and row.state == "done")
        return any(act.job_id == job_id and action in (None, act.action) for act in acts)

    def _may_be_accepted(self, job_id: str) -> bool:
        verdicts = [*self.further(job_id), *filter(None, [self.get(job_id)])]
        return any(verdict.decision in ("pass", "review") for verdict in verdicts)

    def _misses_confirmation(self, act: Acted) -> bool:
        outcomes = [row for row in self._entries.values() if isinstance(row, Found)]
        seen = any(row.job_id == act.job_id and row.outcome == SEEN and row.bin == "reject" for row in outcomes)
        return not seen and any(row.line == act.line and row.outcome in OF_A_SENSOR for row in outcomes)

    def label_counts(self, search: LabelSearch) -> list[Count]:
        """See `ledger.Ledger`."""
        counts = Counter(
            (record.line, record.category, record.bank_version or record.memory_bank or "", record.decision, label)
            for record, label in self._labelled(search)
        )
        return [Count(*group, parts) for group, parts in sorted(counts.items(), key=lambda item: repr(item[0]))]

    def labelled_scores(self, search: LabelSearch) -> list[LabelledScore]:
        """See `ledger.Ledger`."""
        found = [
            (record.score or 0.0, record.job_id, record, label)
            for record, label in self._labelled(search)
            if label in ("good", "defect")
        ]
        return [
            LabelledScore(record.memory_bank or "", score, record.decision, label or "")
            for score, _, record, label in sorted(found, key=lambda item: item[:2])
        ]

    def score_counts(self, search: ScoreSearch) -> ScoreCounts:
        """See `ledger.Ledger`."""
        wanted = LabelSearch(category=search.category, since=search.since, until=search.until)
        found = [row for row in self._labelled(wanted) if row[0].memory_bank == search.memory_bank]
        times = sorted((record.decided_at for record, _ in found), reverse=True)
        since = times[search.most] + 1 if len(times) > search.most else search.since
        totals, labelled = Counter[ScoreKey](), Counter[tuple[ScoreKey, str]]()
        for record, judgement in found:
            if record.decided_at >= since:
                key = key_of(search, record.score or 0.0, record.decision, record.review_threshold)
                totals[key] += 1
                if judgement is not None:
                    labelled[key, judgement] += 1
        return ScoreCounts(since, merged(totals.items(), ((*one, parts) for one, parts in labelled.items())))

    def banks_of(self, category: str, most: int) -> list[BankUse]:
        """See `ledger.Ledger`."""
        self.check()
        latest: dict[str, BankUse] = {}
        for one in sorted(self._verdicts.values(), key=lambda record: record.decided_at):
            use = BankUse.of(one)
            if one.category == category and use is not None:
                latest[use.memory_bank] = use
        kept = [latest[name] for name in sorted(latest)[:most]]
        return sorted(kept, key=lambda bank: (-bank.last_at, bank.memory_bank))

    def shadow_counts(self, search: ShadowSearch) -> list[ShadowCount]:
        """See `ledger.Ledger`."""
        counts = Counter(
            (row.line, row.bank_version, row.decision, row.shadow_decision) for row in self._shadowed(search)
        )
        return [ShadowCount(*group, parts) for group, parts in sorted(counts.items())]

    def shadow_time(self, search: ShadowSearch, number: int) -> int | None:
        """See `ledger.Ledger`."""
        times = sorted((row.judged_at for row in self._shadowed(search)), reverse=True)
        return times[number - 1] if number <= len(times) else None

    def shadow_differences(self, search: ShadowSearch) -> Iterator[Shadowed]:
        """See `ledger.Ledger`."""
        different = [row for row in self._shadowed(search) if row.decision != row.shadow_decision]
        yield from sorted(different, key=lambda row: (-row.judged_at, row.job_id))

    def _shadowed(self, search: ShadowSearch) -> list[Shadowed]:
        self.check()
        return [row for row in self._entries.values() if isinstance(row, Shadowed) and search.has(row)]

    def _labelled(self, search: LabelSearch) -> Iterator[tuple[Record, str | None]]:
        self.check()
        for record in self._verdicts.values():
            if judged(record) and record.decision in _FLAGGED and _matches(record, search):
                given = [row for row in self.entries(record.job_id) if isinstance(row, Judged)]
                yield record, newest(given).judgement if given else None


def _time(row: Entry | Record) -> int:
    names = ("decided_at", "announced_at", "acted_at", "found_at", "judged_at")
    return next(int(getattr(row, name)) for name in names if hasattr(row, name))


def _matches(record: Record, search: LabelSearch) -> bool:
    return (
        search.line in (None, record.line)
        and search.category in (None, record.category)
        and (search.bank is None or is_of_bank(record, search.bank))
        and record.part_id.startswith(search.prefix or "")
        and (search.since is None or record.decided_at >= search.since)
        and (search.until is None or record.decided_at < search.until)
    )
