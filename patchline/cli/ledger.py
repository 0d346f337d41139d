"""Subcommands of `patchline archive` for the ledger of a part, and for what people judge."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.archive import times
from patchline.archive.ledger import GapKind, shown_bank
from patchline.cli.archive import opened
from patchline.cli.options import CONFIG, Category, Settings, names
from patchline.protocol.judgement_message import Label
from patchline.runtime import terminal, this_user

if TYPE_CHECKING:
    from patchline.archive.ledger import LabelSearch
    from patchline.evaluation.intervals import Figure
    from patchline.inspection.memory_bank import FlaggedShare

OneLine = Annotated[str | None, typer.Option("--line", metavar="NAME", callback=names, help="The line.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Then or later: 2026-11-28T09:30, 8h, 7d.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before that time.")]
Bank = Annotated[
    str | None, typer.Option(metavar="VERSION", help="The version of the memory bank, by its first digits.")
]


def part(
    name: Annotated[str, typer.Argument(metavar="ID", help="The id of the part, or of its job.")],
    most: Annotated[int, typer.Option(min=1, metavar="N", help="How many of its jobs at most, the latest first.")] = 20,
    as_json: Json = False,
    config_file: Settings = CONFIG,
) -> None:
    """Print the ledger of a part: all that is known of it, from its trigger to its bin, and what is missing.

    Times are those of the hosts that say so.

    Example:  patchline archive part 5f0c7a52-8a5c-5a53-b9f7-6f0a3d2b1c11
    """
    from patchline.archive import ledger_text
    from patchline.runtime.connections import now_ms

    with opened(config_file) as archive:
        for page in ledger_text.pages(archive, name, now_ms(), most):
            if as_json:
                print(json.dumps(asdict(page)))
                continue
            number = "" if page.number is None else f", number {page.number}"
            print(f"part {page.part_id}, job {page.job_id}, line {page.line}, category {page.category}{number}")
            for event in page.events:
                print(f"  {times.local(event.at)}  {terminal.printable(event.text)}")
            for missing in page.missing:
                print(f"  ! {terminal.printable(missing)}")


def gaps(
    kind: Annotated[list[GapKind] | None, typer.Option(help="Only this kind; again for more.")] = None,
    line: OneLine = None,
    since: Since = "24h",
    until: Until = "1m",
    most: Annotated[int, typer.Option(min=1, metavar="N", help="Of each kind at most.")] = 100,
    as_json: Json = False,
    config_file: Settings = CONFIG,
) -> None:
    """List parts with a gap in their ledger: no act, opposite acts, accepted without a pass, a reject not confirmed.

    The last minute is left out, because parts are on their way. Rejects need a confirmation only on lines that have a
    sensor. What waits in the queue patchline.ledger is not known yet.

    Example:  patchline archive gaps --line press-3 --since 8h
    """
    from patchline.archive import ledger_text
    from patchline.archive.ledger import GapSearch
    from patchline.runtime.connections import now_ms

    starts, ends = (None if text is None else times.parse(text, now_ms()) for text in (since, until))
    search = GapSearch(until=now_ms() if ends is None else ends, since=starts, line=line, most=most)
    with opened(config_file) as archive:
        found = [gap for one in kind or GapKind for gap in archive.gaps(one, search)]
    for gap in found:
        text = f"{times.local(gap.at)}  part {gap.part_id}, job {gap.job_id}, line {gap.line}: {ledger_text.words(gap)}"
        print(json.dumps(asdict(gap)) if as_json else terminal.printable(text))
    if not found and not as_json:
        print("no gaps")


def judge(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The id of the job.")],
    judgement: Annotated[Label, typer.Argument(help="What the part is.")],
    kind: Annotated[str | None, typer.Option(metavar="NAME", help="The kind of the defect, such as scratch.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who says so; by default the user of this machine.")
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="A remark.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Say what a part is, after its verdict. The archive keeps all judgements.

    The newest one counts that its person has not taken back, by `withdrawn`.

    No gate hears it: the part has left the line. It needs RabbitMQ only, as a user who may publish judgements. If the
    archive can be read from here, it is asked whether there is such a job.

    Example:  patchline archive judge 5f0c7a52-8a5c-5a53-b9f7-6f0a3d2b1c11 defect --kind scratch --by anna
    """
    from patchline.operations import judging
    from patchline.runtime import connections

    said = judging.make(job_id, judgement, kind, by or this_user.person(), note, connections.now_ms())
    settings = config.load(config_file)
    note_on_job = judging.look_up(settings, job_id)
    with connections.connect(settings, "judge", confirm_timeout_s=10, quiet=True) as broker:
        judging.publish(broker, said)
    if note_on_job is not None:
        print(note_on_job, file=sys.stderr)
    print(f"job {said.job_id}: {said.judgement}{'' if said.kind is None else f' ({said.kind})'}, says {said.by}")


def rates(
    line: OneLine = None,
    category: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="The category.")] = None,
    bank: Bank = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
    config_file: Settings = CONFIG,
) -> None:
    """Print over-kill and miss rate by line, category and bank, from what people judge, with 95 % bounds.

    Over-kill is the share of the good parts that was rejected (fail or review), the miss rate the share of the defects
    that passed, both of the labelled parts.

    Example:  patchline archive rates --category gasket --since 7d
    """
    from patchline.operations import label_rates

    with opened(config_file) as archive:
        found = label_rates.rates(archive.label_counts(_search(line, category, bank, since, until)))
    if as_json:
        for one in found:
            print(one.model_dump_json())
        return
    if not found:
        print("nobody has labelled a part of these; see: patchline archive judge --help")
        return
    columns = ("line", "category", "bank", "good", "defect", "unsure", "over-kill", "miss", "good rejects", "missed")
    rows = [
        (
            *(one.line, one.category, shown_bank(one.bank)),
            *(one.passed.good + one.rejected.good, one.passed.defects + one.rejected.defects, one.unsure),
            *(_percent(figure) for figure in (one.over_kill, one.miss, one.good_rejects, one.missed_passes)),
        )
        for one in found
    ]
    terminal.table("labelled parts, in %, with 95 % bounds", columns, rows)
    print("good rejects: of the labelled rejects, those that are good; missed: of the labelled passes, the defects")
    _explain((f"{one.line}, {one.category}, {shown_bank(one.bank)}", one.meaning) for one in found)


def threshold(
    category: Category,
    target_over_kill: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of good parts that may be rejected, such as 0.01.")
    ] = None,
    target_miss: Annotated[float | None, typer.Option(metavar="SHARE", help="Of defects that may pass.")] = None,
    line: OneLine = None,
    bank: Bank = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
    config_file: Settings = CONFIG,
) -> None:
    """Propose a threshold for a target, from the scores of labelled parts. Nothing is changed.

    Example:  patchline archive threshold --category gasket --target-miss 0.05 --since 30d
    """
    from patchline.operations import threshold_proposal

    search = _search(line, category, bank, since, until)
    with opened(config_file) as archive:
        scores, counts = archive.labelled_scores(search), archive.label_counts(search)
    proposal = threshold_proposal.propose(category, scores, counts, target_over_kill, target_miss)
    if as_json:
        print(proposal.model_dump_json())
        return
    print(f"category {category}, bank {shown_bank(proposal.bank)}: proposed threshold {proposal.threshold:g}")
    print(f"  good parts rejected: {_bounds(proposal.over_kill)} ({proposal.good} labelled)")
    print(f"  defects that pass:   {_bounds(proposal.miss)} ({proposal.defects} labelled)")
    _explain([("", proposal.meaning)])


def _search(
    line: str | None, category: str | None, bank: str | None, since: str | None, until: str | None
) -> LabelSearch:
    from patchline.archive.ledger import LabelSearch
    from patchline.runtime.connections import now_ms

    starts, ends = (None if text is None else times.parse(text, now_ms()) for text in (since, until))
    return LabelSearch(line, category, bank, starts, ends)


def _explain(meanings: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    for title, sentences in meanings:
        if title:
            print(f"\n{title}:")
        for sentence in sentences:
            print(f"  {sentence}")


def _percent(figure: Figure | None) -> str:
    if figure is None or figure.low is None or figure.high is None:
        return "-"
    return f"{figure.value * 100:.3g} ({figure.low * 100:.3g}-{figure.high * 100:.3g})"


def _bounds(share: FlaggedShare | None) -> str:
    return "unknown" if share is None else f"{share.expected:.2%}, {share.lower:.2%} to {share.upper:.2%}"
