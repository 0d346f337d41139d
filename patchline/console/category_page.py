"""Categories with their rates; of one, the scores of its parts, and what other thresholds would have done."""

from __future__ import annotations

import json
from dataclasses import dataclass

from patchline.archive.ledger import Count
from patchline.archive.scores import ScoreSearch
from patchline.console import category_banks, histogram, known_categories
from patchline.console.category_banks import Choice, Choices
from patchline.console.context import Console
from patchline.console.histogram import Histogram
from patchline.console.search_page import score_of, time_of
from patchline.console.texts import mark
from patchline.console.visit import Refused, Reply, Visit
from patchline.evaluation.intervals import Figure
from patchline.operations import label_rates, what_if
from patchline.operations.label_rates import LabelRates, Looked, Sample
from patchline.operations.what_if import Spread, WhatIf

_WEEK_MS = 7 * 86_400_000
_MOST_IN_LIST = 20_000
_COUNTED = ("passed", "rejected", "released", "caught")


@dataclass(frozen=True)
class Row:
    """A category in the list.

    Attributes:
        choice: the bank that serves; None: nothing is known of one.
        parts: of the last week, judged by it.
        rejected: of these.
        rates: None: nobody has labelled a part of these.
    """

    name: str
    choice: Choice | None
    parts: int
    rejected: int
    rates: LabelRates | None


@dataclass(frozen=True)
class Effect:
    """What two thresholds would have done, and all that the page needs to move them.

    Attributes:
        since: the parts of the histogram are from then on: later than asked for if there are very many.
        sample: what the labelled parts are.
        leaning: how many times as often rejects were looked at as passes; 1.0 if about as often.
        data: JSON with the figures at each edge, for the script.
    """

    choice: Choice
    review: float
    fail: float
    since: int
    until: int
    capped: bool
    what_if: WhatIf
    histogram: Histogram
    passed: Looked
    rejected: Looked
    sample: Sample
    leaning: float
    data: str


def show_all(console: Console, visit: Visit) -> Reply:
    """Show the categories, with the rates of the last week."""
    rows = [_row(console, name) for name in known_categories.names(console)]
    return console.templates.render("categories.html", visit, rows=rows, percent=percent, most=_MOST_IN_LIST)


def show(console: Console, visit: Visit) -> Reply:
    """Show a category; for htmx only what depends on the thresholds."""
    name = category_of(console, visit)
    found = category_banks.choices(console, name)
    choice, effect, problem = found.find(visit.one("version")), None, ""
    if choice is None and visit.one("version"):
        raise Refused(404, mark("This category has no such memory bank."), visit.one("version"))
    try:
        effect = None if choice is None else _effect(console, visit, name, choice)
    except Refused as refused:
        problem = console.templates.explain(visit, refused)
    return console.templates.render(
        "category_effect.html" if visit.partial else "category.html",
        visit,
        400 if problem else 200,
        name=name,
        choices=found,
        choice=choice,
        effect=effect,
        problem=problem,
        percent=percent,
        may_change=_may_change(found, choice),
    )


def category_of(console: Console, visit: Visit) -> str:
    """Return the category of a page. Raises Refused: there is none of this name."""
    name = visit.names["category"]
    if name not in known_categories.names(console):
        raise Refused(404, mark("There is no such category."), name)
    return name


def percent(figure: Figure | None) -> str:
    """Return a share and its bounds; a dash if there is none."""
    if figure is None or figure.low is None or figure.high is None:
        return "–"
    return f"{figure.value * 100:.3g} % ({figure.low * 100:.3g} – {figure.high * 100:.3g} %)"


def _may_change(found: Choices, choice: Choice | None) -> bool:
    return not found.problem and choice is not None and choice.state not in (None, "retired")


def _row(console: Console, name: str) -> Row:
    choice = category_banks.choices(console, name).default
    if choice is None:
        return Row(name, None, 0, 0, None)
    now = console.now_ms()
    search = ScoreSearch(name, choice.memory_bank, now - _WEEK_MS, now, 1.0, 1, most=_MOST_IN_LIST)
    counts = [
        Count("", name, choice.memory_bank, one.decision, one.judgement, one.parts)
        for one in console.archive.score_counts(search).counts
    ]
    passed, rejected = label_rates.looked(counts, True), label_rates.looked(counts, False)
    rates = label_rates.rates(counts)
    return Row(name, choice, passed.parts + rejected.parts, rejected.parts, rates[0] if rates else None)


def _effect(console: Console, visit: Visit, name: str, choice: Choice) -> Effect:
    now = console.now_ms()
    since, until = (time_of(visit.one(one), now) for one in ("since", "until"))
    until = now if until is None else until
    since = until - _WEEK_MS if since is None else since
    limits = choice.thresholds
    review, fail = limit(visit, "review", limits.review), limit(visit, "fail", limits.fail)
    if limits.trial:
        fail = max(review, fail)  # which nobody sees
    if review > fail:
        raise Refused(400, mark("The threshold of doubt is above that of a fail."))
    cuts = (limits.review, limits.fail, review, fail)
    search = what_if.search(name, choice.memory_bank, since, until, limits.fail, cuts)
    counted = console.archive.score_counts(search)
    spread, trial = Spread.of(search, counted.counts), limits.trial is True
    drawn = histogram.draw(spread.edges, spread.histogram(), max(search.step * search.steps, spread.edges[-1]))
    passed, rejected = spread.looked()
    return Effect(
        choice=choice,
        review=review,
        fail=fail,
        since=counted.since,
        until=until,
        capped=counted.since > since,
        what_if=spread.judge(review, fail, trial),
        histogram=drawn,
        passed=passed,
        rejected=rejected,
        sample=label_rates.sample(passed, rejected),
        leaning=label_rates.leaning(passed, rejected),
        data=_data(spread, drawn, trial),
    )


def limit(visit: Visit, name: str, default: float) -> float:
    """Return a threshold of a form. Raises Refused."""
    value = score_of(visit.one(name))
    if value is not None and not 0 < value < float("inf"):
        raise Refused(400, mark("This is no score."), visit.one(name))
    return default if value is None else value


def _data(spread: Spread, drawn: Histogram, trial: bool) -> str:
    """Return what each edge would do as a threshold."""
    found = [spread.judge(edge, edge, trial) for edge in spread.edges]
    return json.dumps(
        {
            "edges": spread.edges,
            "x": [drawn.x(edge) for edge in spread.edges],
            "counts": {name: [[*getattr(one, name), sum(getattr(one, name))] for one in found] for name in _COUNTED},
            "failed": [[*one.failed, sum(one.failed)] for one in found],
            "over_kill": [percent(one.over_kill) for one in found],
            "miss": [percent(one.miss) for one in found],
        },
        separators=(",", ":"),
    )
