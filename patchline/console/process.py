"""The console's process: its wiring and its life."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import structlog

from patchline import config
from patchline.archive import opening, time_limit
from patchline.archive.database import Access
from patchline.archive.period_table import PeriodTable
from patchline.archive.picture_table import PictureTable
from patchline.banks import opening as bank_opening
from patchline.broker.base import Broker, Message
from patchline.console import server, web
from patchline.console.accounts import Accounts
from patchline.console.archive_watch import ArchiveWatch
from patchline.console.context import Console
from patchline.console.database import ConsoleDatabase
from patchline.console.given import Given
from patchline.console.hand_in import HandIn
from patchline.console.known import Known
from patchline.console.lessons import Lessons
from patchline.console.live import Live
from patchline.console.login_limit import LoginLimit
from patchline.console.looks import Looks
from patchline.console.passwords import Passwords
from patchline.console.plant import Plant
from patchline.console.provider import Provider, Waiting
from patchline.console.rates import Rates
from patchline.console.reports import Reports
from patchline.console.sessions import Sessions
from patchline.console.states import States
from patchline.console.teacher import Teacher
from patchline.console.templates import Templates
from patchline.operations import bank_news, judging, look_child
from patchline.protocol import topology
from patchline.protocol.errors import SetupError
from patchline.runtime import connections, health, notify
from patchline.runtime.connections import now_ms

_log = structlog.get_logger(__name__)
_CONFIRM_S = 5.0
_LOOK_S = 0.5
_REPLAY_S = 120.0  # of a closer look: some seconds on an idle host, and much longer on a busy one
_LOOPBACK = ("127.", "::1", "localhost")


def open_database(settings: config.Config) -> ConsoleDatabase:
    """Open the file of the console. See `ConsoleDatabase` for the errors."""
    return ConsoleDatabase(settings.console.database, now_ms)


class _Life:
    """What the probes ask: the pages are served, and the archive answers."""

    def __init__(self, archive: ArchiveWatch) -> None:
        self.archive = archive
        self.pages: threading.Thread | None = None

    def is_alive(self) -> bool:
        """Return False if the pages are not served any more."""
        return self.pages is None or self.pages.is_alive()

    def is_ready(self) -> bool:
        """Return True if pages are served and the archive answers."""
        return self.pages is not None and self.is_alive() and self.archive.answers()


def run(
    settings: config.Config, stop: threading.Event, metrics_port: int | None = None, hand_in: Path | None = None
) -> None:
    """Serve the pages until `stop` is set.

    Args:
        settings: the configuration.
        stop: ends the console.
        metrics_port: port on `worker.metrics_host` for metrics and probes; None: none.
        hand_in: the folder in which people hand pictures to lines, see `hand_in`; None: they cannot.

    Raises:
        SetupError: the address, a file, or the archive cannot be used.
    """
    with ExitStack() as stack:
        sockets = server.listen(settings.console)
        stack.callback(sockets.close)
        database = stack.enter_context(closing(open_database(settings)))
        broker = stack.enter_context(connections.connect(settings, "console", confirm_timeout_s=_CONFIRM_S))
        handed = None if hand_in is None else HandIn(hand_in, settings.publisher.spool_min_free_bytes)
        console = _console(settings, database, broker, stack, stop, handed)
        console.plant.restore()
        life = _measure(console, broker, metrics_port)
        works = (("live", console.live.run), ("looks", console.looks.run), ("archive watch", life.archive.run))
        for name, work in (*works, ("plant", console.plant.run)):
            thread = threading.Thread(target=work, args=(stop,), name=name, daemon=True)
            thread.start()
            stack.callback(thread.join, server.END_S)
        _warn(settings.console, console.accounts)
        _serve(console, sockets, life, stop)
    _log.info("console stopped")


def _measure(console: Console, broker: Broker, metrics_port: int | None) -> _Life:
    """Serve metrics and probes, and hear the statuses of the line."""
    life, metrics = _Life(ArchiveWatch(console.archive.find)), console.metrics
    metrics.show_newest(console.live.newest)
    metrics.show_archive(lambda: life.archive.answered_at_s)

    def hear(message: Message) -> None:
        metrics.status_heard()
        console.states.hear(message)

    broker.listen(topology.STATUS, "#", hear)
    host = console.settings.worker.metrics_host
    health.try_to_serve(host, metrics_port, metrics.registry, life, "showing pages")
    return life


def _console(
    settings: config.Config,
    database: ConsoleDatabase,
    broker: Broker,
    stack: ExitStack,
    stop: threading.Event,
    hand_in: HandIn | None,
) -> Console:
    archive = stack.enter_context(closing(opening.open_archive(settings, Access.READ, time_limit.LIMIT_S)))
    section, pictures, store = settings.console, PictureTable(archive), opening.open_store(settings)
    templates, states = Templates(section.prefix), States()
    banks = None if settings.banks.store is None else bank_opening.versions(settings)
    lessons = Lessons(section.database.parent / "lessons", section.teach.keep_days, now_ms)
    teacher = stack.enter_context(closing(Teacher(lessons, settings, now_ms)))
    lines = {*settings.gate.lines, *settings.plc.lines, *settings.camera.lines}
    return Console(
        settings=settings,
        archive=archive,
        pictures=pictures,
        store=store,
        banks=banks,
        announce=lambda category, version: bank_news.announce(settings, category, version),
        database=database,
        accounts=Accounts(database, Passwords()),
        sessions=Sessions(database, section.idle_minutes, section.session_hours),
        limit=LoginLimit(),
        rates=Rates(section.searches_per_minute, section.changes_per_minute),
        provider=_provider(section.oidc),
        waiting=Waiting(),
        judge=lambda judgement: judging.publish(broker, judgement),
        given=Given(),
        live=Live(archive.find, now_ms),
        looks=Looks(lambda job_id: look_child.look(settings, job_id, _REPLAY_S, stop)),
        states=states,
        plant=Plant(archive.find, states, Known(database), lines, now_ms),
        lessons=lessons,
        teacher=teacher,
        templates=templates,
        reports=Reports(settings, archive, PeriodTable(archive), pictures, store, banks, database, templates, now_ms),
        now_ms=now_ms,
        hand_in=hand_in,
    )


def _provider(section: config.Oidc | None) -> Provider | None:
    if section is None:
        return None
    try:
        from patchline.console.oidc import OpenIdProvider
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; console.oidc needs: pip install 'patchline[oidc]'") from error
    return OpenIdProvider(section)


def _serve(console: Console, listening: socket.socket, life: _Life, stop: threading.Event) -> None:
    section = console.settings.console
    pages = server.PagesServer(web.application(console), section, listening)
    pages.start()
    life.pages = pages.thread
    _log.info("console started", url=_url(section, listening))
    notify.send(notify.READY)
    while pages.thread.is_alive() and not stop.wait(_LOOK_S):
        notify.send(notify.ALIVE)
    notify.send(notify.STOPPING)
    pages.stop()
    if not stop.is_set():
        raise SetupError("the console's server has ended; its log says why")


def _url(section: config.Console, listening: socket.socket) -> str:
    scheme = "https" if section.cert_file else "http"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{section.prefix}/"


def _warn(section: config.Console, accounts: Accounts) -> None:
    if not accounts.all():
        _log.warning("nobody can log in yet; see: patchline console users add --help")
    if not section.uses_https and not section.host.startswith(_LOOPBACK):
        _log.warning("passwords travel in clear; set console.cert_file, or use a proxy with https", host=section.host)
