"""A console in one process: an archive, accounts of all roles, and a clock that the test moves."""

import hashlib
import re
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from starlette.testclient import TestClient

from patchline import config
from patchline.archive.ledger_memory import MemoryLedger
from patchline.archive.period_memory import MemoryPeriods
from patchline.archive.period_table import PeriodTable
from patchline.archive.pictures import MemoryPictures, PictureRow
from patchline.archive.store import MemoryStore
from patchline.banks.objects import MemoryObjects
from patchline.banks.versions import Versions
from patchline.broker.base import NotConfirmed
from patchline.console import web
from patchline.console.accounts import Accounts
from patchline.console.context import Console
from patchline.console.database import ConsoleDatabase
from patchline.console.given import Given
from patchline.console.known import Known
from patchline.console.lessons import Lessons
from patchline.console.live import Live
from patchline.console.login_limit import LoginLimit
from patchline.console.looks import Looks
from patchline.console.passwords import Passwords
from patchline.console.plant import Plant
from patchline.console.provider import Waiting
from patchline.console.rates import Rates
from patchline.console.reports import Reports
from patchline.console.roles import Role
from patchline.console.sessions import Sessions
from patchline.console.states import States
from patchline.console.teacher import COMMAND, Teacher
from patchline.console.templates import Templates
from patchline.protocol.errors import SetupError
from tests.archive_contract import NOW

PASSWORD = "correct horse"
PNG = b"\x89PNG\r\n\x1a\n a picture"
SETTINGS = config.load(Path("config.yaml"))
# As few passes and as little memory as argon2 takes: tests log in often.
PASSWORDS = Passwords(memory_kib=32, passes=1)
HASHED = PASSWORDS.hash(PASSWORD)


def plant_settings(store, categories, new_like, console):
    """The settings of this repository with a store of banks, further categories, and other values of the console."""
    section = SETTINGS.console.model_copy(update={"defect_kinds": ("scratch", "dent")} | console)
    known = SETTINGS.categories | dict.fromkeys(categories, next(iter(SETTINGS.categories.values())))
    banks = SETTINGS.banks.model_copy(update={"store": store, "new_categories_like": new_like})
    return SETTINGS.model_copy(update={"console": section, "categories": known, "banks": banks})


class Bench:
    """The neighbours of the pages, and browsers."""

    def __init__(
        self,
        folder,
        archive=None,
        pictures=None,
        with_banks=True,
        categories=(),
        new_like=None,
        fits=COMMAND,
        provider=None,
        lines=(),
        hand_in=None,
        **settings,
    ):
        self.now = NOW + 60_000
        self.set_back = 0  # how much the wall clock was set back, in milliseconds
        self.published, self.announced, self.broker_is_away = [], [], False
        self.bank_objects = MemoryObjects()
        self.banks = Versions(self.bank_objects, "STORE", lambda: self.now)
        self.banks.make()
        self.stack = ExitStack()
        self.archive = MemoryLedger() if archive is None else archive
        self.pictures = MemoryPictures() if pictures is None else pictures
        self.periods = MemoryPeriods(self.archive) if archive is None else PeriodTable(archive)
        self.store = MemoryStore()
        whole = plant_settings(folder / "store" if with_banks else None, categories, new_like, settings)
        self.console = self._console(folder, whole, fits, provider, lines, hand_in)
        self.application = web.application(self.console)
        for role in Role:
            self._add_account(role)

    def _console(self, folder, settings, fits, provider, lines, hand_in):
        database = self.stack.enter_context(closing(ConsoleDatabase(folder / "console.sqlite", lambda: self.now)))
        banks = None if settings.banks.store is None else self.banks
        lessons = Lessons(folder / "lessons", settings.console.teach.keep_days, lambda: self.now, self.steady_s)
        teacher = self.stack.enter_context(closing(Teacher(lessons, settings, lambda: self.now, fits)))
        templates = Templates(settings.console.prefix)
        sources = (self.archive, self.periods, self.pictures, self.store, banks)
        return Console(
            settings=settings,
            archive=self.archive,
            pictures=self.pictures,
            store=self.store,
            banks=banks,
            announce=self._announce,
            database=database,
            lessons=lessons,
            teacher=teacher,
            templates=templates,
            reports=Reports(settings, *sources, database, templates, lambda: self.now),
            now_ms=lambda: self.now,
            hand_in=hand_in,
            **self._people(database, settings.console, provider),
            **self._parts(database, lines),
        )

    def _people(self, database, section, provider):
        """Who logs in, and how much each may ask."""
        return {
            "accounts": Accounts(database, PASSWORDS),
            "sessions": Sessions(database, section.idle_minutes, section.session_hours, self.steady_s),
            "limit": LoginLimit(clock=self.steady_s),
            "rates": Rates(section.searches_per_minute, section.changes_per_minute, self.steady_s),
            "provider": provider,
            "waiting": Waiting(),
        }

    def _parts(self, database, lines):
        """What is known of parts and lines beside the archive, and what people say of them."""
        states = States(clock=self.steady_s)
        return {
            "judge": self._publish,
            "given": Given(clock=self.steady_s),
            "looks": Looks(lambda job_id: self.look(job_id), clock=self.steady_s),
            "live": Live(self.archive.find, lambda: self.now, clock=self.steady_s),
            "states": states,
            "plant": Plant(self.archive.find, states, Known(database), lines, lambda: self.now, self.steady_s),
        }

    def _add_account(self, role):
        with self.console.database.transaction() as connection:
            row = (f"a-{role}", role, HASHED, self.now)
            connection.execute("INSERT INTO accounts (name, role, password, changed_at) VALUES (?, ?, ?, ?)", row)

    def _publish(self, judgement):
        if self.broker_is_away:
            raise NotConfirmed("RabbitMQ is away")
        self.published.append(judgement)

    def _announce(self, category, version):
        if self.broker_is_away:
            return "RabbitMQ is away"
        self.announced.append((category, version))
        return None

    def look(self, job_id):
        """A closer look, for which a test sets another function."""
        raise SetupError(f"{job_id}: nothing judges here")

    def close(self):
        self.stack.close()

    def steady_s(self):
        """The time that never goes back, in seconds."""
        return (self.now + self.set_back) / 1000

    def set_clock(self, seconds):
        """Set the wall clock forward, or back if negative, while no time passes."""
        self.now += int(seconds * 1000)
        self.set_back -= int(seconds * 1000)

    def pass_time(self, seconds):
        self.now += int(seconds * 1000)

    def keep_picture(self, job_id, kind="image", body=PNG, content_type="image/png", category="brick"):
        digest = hashlib.sha256(body).hexdigest()
        self.store.put(digest, body)
        row = PictureRow(job_id, kind, digest, content_type, len(body), NOW, "fail", "l1", category)
        self.pictures.add([row])

    def browser(self, role=None, **headers):
        """A browser; with a role, one whose person has logged in."""
        client = TestClient(self.application, follow_redirects=False, headers={"accept-language": "en"} | headers)
        browser = Browser(client)
        if role is not None:
            session = self.console.sessions.begin(f"a-{role}")
            client.cookies.set("patchline_session", session.token)
            browser.session, browser.csrf = session, session.csrf
        return browser


class Browser:
    """A client with the token of its forms."""

    def __init__(self, client):
        self.client, self.csrf, self.session = client, "", None

    def get(self, path, **headers):
        return self.client.get(path, headers=headers)

    def post(self, path, form=None, headers=None):
        """Send a form with its token, unless it names another one."""
        return self.client.post(path, data={"csrf": self.csrf} | (form or {}), headers=headers or {})

    def log_in(self, name, password=PASSWORD, path="/login"):
        form = self.get(path).text
        token = re.search(r'name="csrf" value="([^"]+)"', form)[1]
        return self.client.post(path, data={"csrf": token, "name": name, "password": password})


def with_role(session, role):
    return replace(session, role=role)
