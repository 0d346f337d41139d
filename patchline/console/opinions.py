"""What each person says of a part now: by the archive, and by what was given here a moment ago."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from patchline.archive.ledger import Judged
from patchline.console.context import Console
from patchline.protocol.judgement_message import Judgement, Label


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a person has said last. `at` is in epoch milliseconds."""

    by: str
    judgement: str
    kind: str | None
    note: str | None
    at: int

    @property
    def key(self) -> str:
        """What a form sends back, so that it is known which opinion the person has seen."""
        return "/".join((self.by, self.judgement, self.kind or ""))


def of(console: Console, job_id: str) -> list[Opinion]:
    """Return the opinions on a part, the latest first; of who has taken back a judgement, none.

    Raises:
        Unavailable: the archive does not answer.
    """
    archived = (entry for entry in console.archive.entries(job_id) if isinstance(entry, Judged))
    return standing(archived, console.given.of(job_id))


def standing(archived: Iterable[Judged], given: Iterable[Judgement]) -> list[Opinion]:
    """Return the opinions of some judgements, see `of`."""
    said = [Opinion(one.judged_by, one.judgement, one.kind, one.note, one.judged_at) for one in archived]
    said += [Opinion(one.by, one.judgement, one.kind, one.note, one.judged_at) for one in given]
    latest = {one.by: one for one in sorted(said, key=lambda one: one.at)}
    left = [one for one in latest.values() if one.judgement != Label.WITHDRAWN]
    return sorted(left, key=lambda one: -one.at)


def unseen(opinions: Iterable[Opinion], by: str, seen: Iterable[str]) -> list[Opinion]:
    """Return the opinions of others that a person has not seen."""
    known = set(seen)
    return [one for one in opinions if one.by != by and one.key not in known]


def changes(opinions: Iterable[Opinion], said: Judgement) -> bool:
    """Return False if a person says the same as before, or takes back what is taken back already."""
    own = next(((one.judgement, one.kind, one.note) for one in opinions if one.by == said.by), None)
    if said.judgement == Label.WITHDRAWN:
        return own is not None
    return own != (said.judgement, said.kind, said.note)
