"""What the pages use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from patchline import config
from patchline.archive.ledger import Ledger
from patchline.archive.pictures import PictureIndex
from patchline.archive.store import Store
from patchline.banks.versions import Versions
from patchline.console.accounts import Accounts
from patchline.console.database import ConsoleDatabase
from patchline.console.given import Given
from patchline.console.hand_in import HandIn
from patchline.console.lessons import Lessons
from patchline.console.live import Live
from patchline.console.login_limit import LoginLimit
from patchline.console.looks import Looks
from patchline.console.metrics import Metrics
from patchline.console.plant import Plant
from patchline.console.provider import Provider, Waiting
from patchline.console.rates import Rates
from patchline.console.repeats import Repeats
from patchline.console.reports import Reports
from patchline.console.sessions import Sessions
from patchline.console.states import States
from patchline.console.teacher import Teacher
from patchline.console.templates import Templates
from patchline.console.told import Notes
from patchline.protocol.judgement_message import Judgement


@dataclass(frozen=True)
class Console:
    """The neighbours of the pages.

    Attributes:
        archive: is only read.
        banks: the store of the versions of memory banks; None: none is configured.
        announce: tells workers to look at the version of a category. Returns why they were not told, or None.
        judge: publishes a judgement, and returns once RabbitMQ has it. Raises SetupError and BrokerError.
        rates: how much each person may ask.
        provider: the log-in service of the plant, or None; `waiting` has the log-ins on their way through it.
        given: the judgements of the last minute, which the archive may not have yet.
        live: the parts as they come.
        looks: closer looks at parts, which take some seconds.
        states: of the processes of the line.
        lessons: the pictures of banks to be made.
        teacher: makes these banks.
        reports: are made one at a time.
        plant: all lines, with what was known last of each.
        now_ms: the wall clock.
        hand_in: takes pictures of parts for lines; None: they come from cameras only.
        metrics: counts requests, log-ins and browsers.
        repeats: knows the forms of the last minutes, which act once.
        log_ins: likewise those that log in, which anybody may send.
        notes: what pages say of the last uploads.
    """

    settings: config.Config
    archive: Ledger
    pictures: PictureIndex
    store: Store
    banks: Versions | None
    announce: Callable[[str, str], str | None]
    database: ConsoleDatabase
    accounts: Accounts
    sessions: Sessions
    limit: LoginLimit
    rates: Rates
    provider: Provider | None
    waiting: Waiting
    judge: Callable[[Judgement], None]
    given: Given
    live: Live
    looks: Looks
    states: States
    lessons: Lessons
    teacher: Teacher
    plant: Plant
    templates: Templates
    reports: Reports
    now_ms: Callable[[], int]
    hand_in: HandIn | None = None
    metrics: Metrics = field(default_factory=Metrics)
    repeats: Repeats = field(default_factory=Repeats)
    log_ins: Repeats = field(default_factory=Repeats)
    notes: Notes = field(default_factory=Notes)
