"""The figures of a report as a document, in a language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import tzinfo

from patchline.archive.ledger import shown_bank
from patchline.console import report_words, words
from patchline.console.report_document import Bars, Document, Image, Part, Section, Table
from patchline.console.report_wording import Wording
from patchline.operations.label_rates import LabelRates
from patchline.operations.line_report import BATCH_DAYS, MISSED, PAUSE_MS, WORST, NamedPart, Report
from patchline.protocol.messages import Decision

_MINUTE_MS = 60_000


@dataclass(frozen=True)
class Made:
    """Who made a report, when (epoch milliseconds), and with which build."""

    by: str
    at: int
    build: str


class ReportText:
    """Writes a report.

    Args:
        report: the figures.
        made: by whom.
        language: one of `texts.LANGUAGES`.
        zone: the time zone of the plant; None: that of this host.
    """

    def __init__(self, report: Report, made: Made, language: str, zone: tzinfo | None) -> None:
        self._report, self._made = report, made
        self._with = Wording(language, zone)
        self._say = self._with.say

    def document(self) -> Document:
        """Return the document."""
        _ = self._say
        sections = (
            self._summary(),
            self._over_time(),
            self._by_bank(),
            self._not_judged(),
            self._labels(),
            self._acts(),
            self._changes(),
            self._alarms(),
            self._worst(),
            self._missed(),
            self._covers(),
        )
        kept = tuple(section for section in sections if section is not None)
        return Document(self._with.language, self.title(), tuple(self._facts()), kept, _("Page %(number)s of %(all)s"))

    def title(self) -> str:
        """Return the title."""
        _, request = self._say, self._report.request
        if request.kind == "shift":
            name, _at, day = request.name.partition("@")
            return _("Shift %(name)s of %(day)s") % {"name": name, "day": day}
        if request.kind == "batch":
            return _("Batch %(name)s") % {"name": request.name}
        return _("Report of the line")

    def _facts(self) -> Iterator[tuple[str, str]]:
        _, report, request, made = self._say, self._report, self._report.request, self._made
        yield _("Line"), request.line or _("all")
        yield _("Category"), request.category or _("all")
        if request.kind == "batch":
            yield _("Part ids that begin with"), request.name
        yield _("Time"), f"{self._with.clock(request.since)} – {self._with.clock(request.until)}"
        if report.until < request.until:
            yield _("Not over yet"), _("the figures end at %(time)s") % {"time": self._with.clock(report.until)}
        if report.extent is not None:
            first, last = report.extent
            yield _("First and last verdict"), f"{self._with.clock(first)} – {self._with.clock(last)}"
        yield _("Made"), _("%(time)s by %(who)s") % {"time": self._with.clock(made.at), "who": made.by}
        yield _("Software"), f"Patchline {made.build}"
        yield _("Digest of the figures (SHA-256)"), report.digest

    def _summary(self) -> Section:
        _, report = self._say, self._report
        rows = [
            (self._with.decision(one.decision), str(one.parts), *self._with.share(one.share))
            for one in report.decisions
        ]
        columns = (_("Result"), _("Parts"), _("Share"), _("95 % bounds"))
        tables = [
            Table(_("%(count)s parts with a verdict") % {"count": report.parts}, columns, tuple(rows), _n(1, 2, 3))
        ]
        announced = report.announcements
        counted = [
            (_("Announced parts"), announced.parts),
            (_("announced, and no verdict came"), announced.without_verdict),
            (_("Unnoticed: announced, due, and no gate has acted"), report.gaps.get("no-act", 0)),
            (_("Verdicts on replayed dead letters, counted nowhere else"), report.replays),
            (_("Second verdicts that differ from the first"), report.further),
        ]
        cells = tuple((name, str(count)) for name, count in counted)
        tables.append(Table(_("Beside them"), (_("Counted"), _("Parts")), cells, _n(1)))
        notes = () if report.parts else (_("There is no verdict in this time."),)
        return Section(_("Summary"), notes, None, tuple(tables) if report.parts else (tables[1],))

    def _over_time(self) -> Section | None:
        _, report = self._say, self._report
        if not report.parts:
            return None
        shown = (Decision.PASS, Decision.REVIEW, Decision.FAIL)
        labels, values = [], []
        for step in report.steps:
            labels.append(self._with.moment(step.since, report.step_ms * len(report.steps)))
            named = tuple(step.counts.get(decision, 0) for decision in shown)
            values.append((*named, sum(step.counts.values()) - sum(named)))
        series = (*(self._with.decision(decision) for decision in shown), _("others"))
        bars = Bars(_("Parts over time"), tuple(labels), series, (*map(str, shown), "other"), tuple(values))
        rows = tuple((label, *map(str, bar)) for label, bar in zip(labels, values, strict=True))
        minutes = {"minutes": report.step_ms // _MINUTE_MS}
        table = Table(_("Parts in steps of %(minutes)s minutes") % minutes, (_("From"), *series), rows, _n(1, 2, 3, 4))
        return Section(_("Over time"), (), bars, (table,))

    def _by_bank(self) -> Section | None:
        _, report = self._say, self._report
        if not report.banks:
            return None
        shares = tuple(
            (
                *(one.line, one.category, shown_bank(one.bank), str(one.parts)),
                *(self._with.bounded(figure) for figure in (one.passed, one.reviewed, one.failed)),
            )
            for one in report.banks
        )
        names = (_("Line"), _("Category"), _("Memory bank"))
        columns = (
            *names,
            _("Parts"),
            *(self._with.decision(one) for one in (Decision.PASS, Decision.REVIEW, Decision.FAIL)),
        )
        limits = tuple(
            (
                *(one.line, one.category, shown_bank(one.bank)),
                self._with.range(one.review_from),
                _("never (a trial)") if one.trial else self._with.range(one.fail_from),
                *(self._with.clock(one.first), self._with.clock(one.last)),
            )
            for one in report.banks
        )
        times = (_("Doubtful from"), _("Fails from"), _("First verdict"), _("Last verdict"))
        tables = (
            Table(_("Results in %, with 95 % bounds"), columns, shares, _n(3, 4, 5, 6)),
            Table(_("Thresholds, and when each version judged"), (*names, *times), limits, _n(3, 4)),
        )
        note = _("The bounds hold for further parts like these, if one part says nothing of the next.")
        return Section(_("By category and version of the bank"), (note,), None, tables)

    def _not_judged(self) -> Section | None:
        _, report = self._say, self._report
        if not report.reasons:
            return None
        rows = tuple(
            (one.line, self._with.decision(one.decision), report_words.reason(one.reason, _), str(one.parts))
            for one in report.reasons
        )
        table = Table(_("Reasons"), (_("Line"), _("Result"), _("Reason"), _("Parts")), rows, _n(3))
        return Section(_("Not judged, and too late"), (_("A gate rejects these parts."),), None, (table,))

    def _labels(self) -> Section:
        _, report = self._say, self._report
        title = _("Over-kill and misses, from what people say")
        if not report.labels:
            text = _("Nobody has judged a part of these. So nothing is known of over-kill and misses.")
            return Section(title, (text,))
        rows = tuple(
            (
                *(one.line, one.category, shown_bank(one.bank)),
                *map(str, (one.passed.good + one.rejected.good, one.passed.defects + one.rejected.defects, one.unsure)),
                *(self._with.bounded(one) for one in (one.over_kill, one.miss, one.good_rejects, one.missed_passes)),
            )
            for one in report.labels
        )
        columns = (
            *(_("Line"), _("Category"), _("Memory bank"), _("good"), _("defect"), _("unsure")),
            *(_("Over-kill"), _("Missed"), _("good rejects"), _("defects that passed")),
        )
        explained = _(
            "Over-kill: of the good parts that people judged, those that were rejected. Missed: of the defects, those "
            "that passed. Good rejects: of the judged rejects, the good ones. Defects that passed: of the judged parts "
            "that passed, the defects."
        )
        table = Table(_("Judged parts, and rates in % with 95 % bounds"), columns, rows, _n(*range(3, 10)))
        return Section(title, (), None, (table,), (), (explained, *self._meanings()))

    def _meanings(self) -> Iterator[str]:
        """What the rates mean, once for all groups of which it is the same."""
        groups: dict[tuple[str, ...], list[LabelRates]] = {}
        for one in self._report.labels:
            groups.setdefault(one.meaning[1:], []).append(one)
        for meaning, rates in groups.items():
            yield " ".join((*map(self._coverage, rates), *map(self._say, meaning)))

    def _coverage(self, rates: LabelRates) -> str:
        _ = self._say
        return _(
            "%(line)s, %(category)s, %(bank)s: %(passed)s of %(all_passed)s parts that passed and %(rejected)s of "
            "%(all_rejected)s rejected parts are judged by people."
        ) % {
            "line": rates.line,
            "category": rates.category,
            "bank": shown_bank(rates.bank),
            "passed": rates.passed.labelled,
            "all_passed": rates.passed.parts,
            "rejected": rates.rejected.labelled,
            "all_rejected": rates.rejected.parts,
        }

    def _acts(self) -> Section:
        _, report = self._say, self._report
        acts = tuple(
            (
                one.line,
                _(report_words.ACTIONS.get(one.action, one.action)),
                report_words.because(one.because, _),
                _("yes") if one.stale else "–",
                str(one.parts),
            )
            for one in report.acts
        )
        columns = (_("Line"), _("Act"), _("Because"), _("Late"), _("Parts"))
        outcomes = tuple(
            (one.line, _(words.OUTCOMES.get(one.outcome, one.outcome)), str(one.parts)) for one in report.outcomes
        )
        gaps = tuple((_(words.GAPS[kind]), str(report.gaps[kind])) for kind in words.GAPS if report.gaps.get(kind))
        tables = (
            Table(_("Acts of the gates"), columns, acts, _n(4)),
            Table(_("What became of parts otherwise"), (_("Line"), _("Outcome"), _("Parts")), outcomes, _n(2)),
            Table(_("Missing or contradictory"), (_("Gap"), _("Parts")), gaps, _n(1)),
        )
        kept = tuple(table for table in tables if table.rows)
        nothing = _("The archive has no act of a gate in this time.")
        fine = _("No part escaped, was missed, or has a gap in its ledger.")
        notes = (*(() if acts else (nothing,)), *(() if not acts or outcomes or gaps else (fine,)))
        late = (_("Late: the part had probably left the line when the gate acted."),) if acts else ()
        return Section(_("Acts of the gates"), notes, None, kept, (), late)

    def _changes(self) -> Section:
        _, changes = self._say, self._report.changes
        rows = tuple(
            (
                self._with.clock(one.at),
                one.who,
                _(report_words.CHANGES.get(one.what, one.what)),
                " ".join(filter(None, (one.of, shown_bank(one.version)))),
                one.detail,
            )
            for one in changes.known
        )
        columns = (_("Time"), _("Who"), _("What"), _("Of"), _("Why"))
        tables = (Table(_("What was changed"), columns, rows),) if rows else ()
        notes = [] if rows else [_("No change is known.")]
        if changes.problem:
            notes.append(_("The store of the banks could not be read: %(reason)s") % {"reason": changes.problem})
        elif not changes.has_store:
            notes.append(
                _("There is no store of banks, so nobody has logged who replaced one. See above which of them judged.")
            )
        return Section(
            _("Changes"), tuple(notes), None, tables, (), (_("Thresholds and recipes are parts of a bank's version."),)
        )

    def _alarms(self) -> Section:
        _, report = self._say, self._report
        minutes = {"minutes": PAUSE_MS // _MINUTE_MS}
        pauses = tuple(
            (
                one.line,
                self._with.clock(one.since),
                self._with.clock(one.until),
                str(round((one.until - one.since) / _MINUTE_MS)),
            )
            for one in report.pauses
        )
        workers = tuple(
            (one.worker, one.device, str(one.parts), self._with.clock(one.first), self._with.clock(one.last))
            for one in report.workers
        )
        times = (_("From"), _("To"))
        tables = (
            Table(
                _("Longest times without a verdict, of more than %(minutes)s minutes") % minutes,
                (_("Line"), *times, _("Minutes")),
                pauses,
                _n(3),
            ),
            Table(
                _("Who has judged"),
                (_("Worker"), _("Device"), _("Parts"), _("First verdict"), _("Last verdict")),
                workers,
                _n(2),
            ),
        )
        kept = tuple(table for table in tables if table.rows)
        note = _(
            "The archive knows what went wrong with parts, not the alarms of Prometheus: see there for processes that "
            "were away, full disks, and queues."
        )
        return Section(_("Faults and standstills"), (note,), None, kept)

    def _worst(self) -> Section | None:
        _, parts = self._say, self._report.worst
        if not parts:
            return None
        note = _("The rejected parts that are the furthest above their threshold, %(most)s at most.") % {"most": WORST}
        return Section(_("Worst parts"), (note,), None, (), tuple(map(self._part, parts)))

    def _missed(self) -> Section | None:
        _, parts = self._say, self._report.missed
        if not parts:
            return None
        note = _("The highest scores among them, %(most)s at most.") % {"most": MISSED}
        return Section(
            _("Parts that passed, and people call a defect"), (note,), None, (), tuple(map(self._part, parts))
        )

    def _part(self, part: NamedPart) -> Part:
        _ = self._say
        score, limit = _("Score"), _("Fails from")
        said = f"{self._with.decision(part.decision)}. {score}: {self._with.score(part.score)}"
        fails = _("never: the memory bank is a trial") if part.trial else self._with.score(part.fail_threshold)
        lines = [
            f"{said}, {limit}: {fails}",
            f"{part.line}, {part.category}, {self._with.clock(part.decided_at)}",
        ]
        if part.judgement is not None:
            kind = f" ({part.defect_kind})" if part.defect_kind else ""
            people, label = _("People say:"), _(words.LABELS.get(part.judgement, part.judgement))
            lines.append(f"{people} {label}{kind}")
        if not part.pictures:
            lines.append(_("The archive has no picture of it."))
        captions = {
            "image": _("The picture of part %(name)s"),
            "heat_map": _("The heat map of part %(name)s: the redder, the less it looks like good parts"),
        }
        images = tuple(
            Image(part.job_id, kind, captions[kind] % {"name": part.part_id})
            for kind in captions
            if kind in part.pictures
        )
        return Part(part.part_id, part.job_id, part.decision, tuple(lines), images)

    def _covers(self) -> Section:
        _, report = self._say, self._report
        notes = [
            _("Each image that was judged counts once, by its first verdict: a part counts for each of its images."),
            _("Verdicts, announcements, acts and outcomes count by their own times. Times are those of the plant."),
            _("What waits in a queue, or was set aside as unreadable, is not in it. Judgements may still come."),
        ]
        if report.request.kind == "batch":
            days = {"days": BATCH_DAYS}
            notes.append(_("Without a time, a batch is looked for in the last %(days)s days.") % days)
        banks = tuple((one.category, one.bank) for one in report.banks)
        pictures = tuple(
            (part.part_id, _(report_words.PICTURES.get(kind, kind)), digest)
            for part in (*report.worst, *report.missed)
            for kind, digest in part.pictures.items()
        )
        tables = (
            Table(_("Versions of the banks"), (_("Category"), _("SHA-256")), banks),
            Table(_("Pictures"), (_("Part"), _("Kind"), _("SHA-256")), pictures),
        )
        kept = tuple(table for table in tables if table.rows)
        return Section(_("What this report covers, and digests"), tuple(notes), None, kept)


def _n(*places: int) -> frozenset[int]:
    return frozenset(places)
