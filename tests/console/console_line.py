"""A line with a worker, an archive with pictures and a console, for tests in a browser."""

import re
from contextlib import closing

from patchline import config
from patchline.archive import opening
from patchline.archive.base import Search
from patchline.archive.database import Access
from patchline.console.database import ConsoleDatabase
from patchline.console.sessions import Sessions
from patchline.protocol.messages import Decision
from patchline.runtime.connections import now_ms
from patchline.services import server
from tests.system.conftest import Line, wait_for
from tests.system.test_archive import start

PASSWORD = "a password of a person"
PREFIX = "/plant"
ROLES = {"anna": "review", "erik": "engineer", "mei": "admin"}
SETTINGS = """
archive: {batch: 20, batch_ms: 20, pictures: {decisions: [fail, review, expired, error], min_free_bytes: 0}}
console: {port: %d, prefix: /plant, defect_kinds: [scratch, hole]}
"""


class ConsoleLine(Line):
    """A line that people look at."""

    def __init__(self, folder, servers, stack):
        (port,) = server.free_ports(1)
        with (folder / "config.yaml").open("a") as file:
            file.write(SETTINGS % port)
        (folder / "password").write_text(PASSWORD + "\n")
        super().__init__(folder, servers, stack)
        self.url = f"http://127.0.0.1:{port}{PREFIX}"
        self.sent = 0

    def begin(self):
        """Start all processes, and add the accounts of `ROLES`."""
        self.archive = start(self)
        for name, role in ROLES.items():
            words = ("--role", role, "--password-file", str(self.folder / "password"))
            assert self.run("console", "users", "add", name, *words).returncode == 0
        (self.folder / "handed-in" / "l1").mkdir(parents=True)
        self.console = self.start("console", "--hand-in", str(self.folder / "handed-in"))
        self.judge = self.worker("--device", "cpu")
        wait_for(lambda: server.responds(f"{self.url}/healthz") or self.console.poll() is not None)

    def inspect(self, images):
        """Send images, and wait until the archive has their verdicts and pictures. Return the records by job."""
        jobs = [f"job-{self.sent + number}" for number in range(len(images))]
        self.sent += len(images)
        for job, image in zip(jobs, images, strict=True):
            self.send(image.read_bytes(), job, part_id=f"part-of-{job}")
        wait_for(lambda: set(jobs) <= self.archived().keys())
        return {job: record for job, record in self.archived().items() if job in jobs}

    def archived(self):
        """The verdicts of the archive, by job."""
        with closing(opening.open_archive(self.settings, Access.READ)) as archive:
            return {record.job_id: record for record in archive.find(Search(most=1_000))}

    def judged(self, job):
        """What the archive has as the judgement of a job."""
        with closing(opening.open_archive(self.settings, Access.READ)) as archive:
            found = archive.judgements_of([job]).get(job)
            return found and (found.judgement, found.kind, found.judged_by)

    def rejects(self):
        """The jobs that did not pass, the latest first."""
        return [job for job, one in self.archived().items() if one.decision in (Decision.FAIL, Decision.REVIEW)]

    def cookies(self, name):
        """The cookie of a log-in of a person, without the form."""
        section = config.load(self.folder / "config.yaml").console
        with closing(ConsoleDatabase(section.database, now_ms)) as database:
            token = Sessions(database, section.idle_minutes, section.session_hours).begin(name).token
        return [{"name": "patchline_session", "value": token, "url": self.url}]

    def end_log_ins(self):
        """End all log-ins, as their time does."""
        with (
            closing(ConsoleDatabase(self.settings.console.database, now_ms)) as database,
            database.transaction() as connection,
        ):
            connection.execute("DELETE FROM sessions")


def log_in(page, line, name, to="/line"):
    """Log in with the form."""
    page.goto(line.url + to)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile(re.escape(line.url + to)))
