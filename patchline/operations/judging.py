"""Publishes what a person says of a part after its verdict."""

from __future__ import annotations

from contextlib import closing

import pydantic

from patchline import config
from patchline.archive import opening
from patchline.archive.base import Unavailable
from patchline.archive.database import Access
from patchline.broker.base import Broker, Message, TopologyMismatch, Unroutable
from patchline.protocol import messages, topology
from patchline.protocol.errors import SetupError
from patchline.protocol.judgement_message import JUDGEMENT_TYPE, Judgement, Label

_JOBS_NAMED = 5


def make(job_id: str, judgement: Label, kind: str | None, by: str, note: str | None, judged_at: int) -> Judgement:
    """Return a judgement.

    Raises:
        SetupError: a value cannot be used.
    """
    try:
        return Judgement(job_id=job_id, judgement=judgement, kind=kind, by=by, note=note, judged_at=judged_at)
    except pydantic.ValidationError as error:
        raise SetupError(f"this is no judgement: {messages.describe(error)}") from error


def look_up(settings: config.Config, job_id: str) -> str | None:
    """Ask the archive whether it knows a job, if this user can read the archive.

    Returns:
        A sentence if it does not know the job (yet); None if it does, or cannot be asked.

    Raises:
        SetupError: it is the id of a part, whose judgement nobody would find.
    """
    try:
        with closing(opening.open_archive(settings, Access.READ)) as archive:
            jobs = archive.jobs_of(job_id, _JOBS_NAMED)
    except (SetupError, Unavailable):
        return None
    if jobs and job_id not in jobs:
        raise SetupError(f"{job_id}: is the id of a part; name its job: {', '.join(jobs)}")
    return None if jobs else f"note: the archive knows no job {job_id} yet"


def publish(broker: Broker, judgement: Judgement) -> None:
    """Publish a judgement, and wait until RabbitMQ has it in the queue of the archive.

    Raises:
        SetupError: there is no such queue yet.
        NotConfirmed: RabbitMQ does not answer, or refuses it.
    """
    message = Message(judgement.to_json(), judgement.job_id, JUDGEMENT_TYPE, "application/json")
    try:
        broker.declare(topology.Topology((topology.JUDGEMENTS,), ()), passive=True)
        broker.publish(topology.JUDGEMENTS, judgement.routing_key, message)
    except (TopologyMismatch, Unroutable) as error:
        advice = "nobody would keep the judgement; start `patchline archive`, or run `patchline topology`"
        raise SetupError(f"the queue {topology.LEDGER} is missing: {advice}") from error
