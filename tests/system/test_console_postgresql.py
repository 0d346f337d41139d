"""The console's pages answer the same of an archive in PostgreSQL as of one in SQLite."""

import re
import shutil
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from patchline.archive.ledger_database import LedgerDatabase
from patchline.archive.picture_table import PictureTable
from patchline.banks import store
from patchline.console import routes
from patchline.console.roles import Role
from patchline.inspection import picture
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.messages import Thresholds
from tests.archive_contract import NOW, record
from tests.console_bench import Bench
from tests.ledger_contract import entry, judgement, outcome, shadow
from tests.period_contract import fill

pytestmark = pytest.mark.timeout(120)
BANK = Path("tests/data/build_5fd44a6/brick")
MANIFEST = BankManifest.model_validate_json((BANK / store.MANIFEST_FILE).read_bytes())
MUCH = {"searches_per_minute": 10_000}
REGION = {"x": 10, "y": 5, "width": 20, "height": 8, "score": 2.5}
SERVED = f"brick@{MANIFEST.index_sha256[:12]}"
# A page, and a pattern of what stands there only if its questions have found something.
PAGES = {
    "/line": "events",
    "/plant": "b7-3",
    "/part/B7-2": "too late for the arm",
    "/part/part-of-a?job=a": "different verdict|further|accept",
    "/part/part-of-job-seen": "scratch",
    "/part/nobody": "escaped|unannounced",
    "/search": "before=",
    "/search?line=l1&decision=fail&decision=review": "B7-2",
    "/search?part=b7-3": "job=i",
    "/search?part=B7-3": "",
    "/search?category=brick&low=95&high=300": "B7-2",
    "/search?since=2023-11-14T22:15%2B00:00&until=2023-11-14T22:40%2B00:00": "B7-1",
    "/review": 'name="job"',
    "/review?line=l1&since=3h": 'name="job"',
    "/category": "brick",
    "/category/brick?since=2023-11-14&until=2023-11-15": "data-spread",
    "/category/brick?since=2023-11-14&until=2023-11-15&review=300&fail=350": "data-spread",
    "/category/cup": "html",
    "/banks": "brick",
    "/banks/brick": "Report of the shadow",
    "/banks/brick/report": "part-of-r2",
    "/banks/brick/report?line=l9": "html",
    "/report?since=2023-11-14T22:00&until=2023-11-15T00:00": "B7-2",
    "/report?since=2023-11-14T22:00&until=2023-11-15T00:00&line=l1&category=brick": "B7-2",
    "/report?batch=B7-": "B7-4",
    "/report.html?batch=B7-": "B7-4",
    "/picture/outlined/image": "PNG",
    "/outlines/outlined": "rect",
}
# They ask the archive for nothing, or for what a page above asks for.
WITHOUT_ARCHIVE = {
    *("/healthz", "/static/{name}", "/login", "/oidc", "/oidc/back", "/oidc/logout", "/password", "/", "/line/events"),
    "/line/send",
    *("/look/{job}", "/look/{job}/{kind}", "/banks/{category}/act", "/accounts", "/audit", "/report.pdf"),
    *("/teach", "/teach/{lesson}", "/teach/{lesson}/run", "/teach/{lesson}/small/{kind}/{name}"),
    "/teach/{lesson}/tile/{name}",
}


def publish_banks(bench, folder):
    """An active version, and a shadow with other thresholds. Return both."""
    active, _ = bench.banks.publish(BANK, "brick", "fit", "first")
    bench.banks.activate("brick", active, "anna", "first")
    shutil.copytree(BANK, folder)
    limits = Thresholds(review=90.0, fail=110.0)
    store.replace_manifest(folder, MANIFEST.model_copy(update={"thresholds": limits}))
    second, _ = bench.banks.publish(folder, "brick", "fit", "second")
    bench.banks.shadow("brick", second, 1.0, "anna", "a shadow")
    return active, second


def fill_console(bench, folder):
    """An hour of two lines, what people and gates say of it, and 61 parts, of which a shadow has judged 20, too."""
    fill(bench.archive)
    version, second = publish_banks(bench, folder / "bank")
    said = {"memory_bank": SERVED, "bank_version": version, "decided_at": NOW + 1_800_000}
    bench.archive.save(
        [
            record(f"{decision[0]}{number}", decision=decision, score=10.0 * number, **said)
            for decision in ("pass", "review", "fail")
            for number in range(20)
        ]
        + [record("seen", part_id="part-of-job-seen", **said), record("outlined", regions=[REGION])],
        [],
    )
    compared = {"bank_version": version, "shadow_version": second}
    entries = [shadow(f"r{number}", ("pass", "fail")[number % 2], **compared) for number in range(20)]
    labels = {"p0": "good", "p19": "defect", "r0": "good", "r3": "defect", "f0": "unsure", "f19": "withdrawn"}
    entries += [judgement(job, label) for job, label in labels.items()]
    entries += [judgement("seen", "defect", kind="scratch"), outcome("nobody")]
    bench.archive.save_ledger([entry(one) for one in entries], [])
    bench.keep_picture("outlined", body=picture.encode_png(np.zeros((32, 48, 3), np.uint8)))
    bench.keep_picture("r1", "heat_map")
    bench.pass_time(7200)


@pytest.fixture(scope="module")
def people(postgres, tmp_path_factory):
    """A browser on each of two consoles, whose archives are in SQLite and in PostgreSQL."""
    with ExitStack() as stack:
        yield [
            engineer(stack, tmp_path_factory.mktemp("console"), target)
            for target in (tmp_path_factory.mktemp("archive") / "archive.sqlite", as_plants_have_it(postgres.url))
        ]


def engineer(stack, folder, target):
    archive = stack.enter_context(closing(LedgerDatabase(target)))
    archive.prepare()
    bench = Bench(folder, archive, PictureTable(archive), categories=["brick", "cup"], lines=["l1", "l2"], **MUCH)
    fill_console(stack.enter_context(closing(bench)), folder)
    return bench.browser(Role.ADMIN)


def as_plants_have_it(url):
    """Make a database whose texts are in the order of a language, as on most servers. Return its url."""
    admin = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        made = "CREATE DATABASE plant TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        connection.execute(sa.text(made))
    engine.dispose()
    return admin.set(drivername="postgresql", database="plant").render_as_string(hide_password=False)


def answers(people, path):
    """What both consoles answer, without what is another one in each form."""
    found = [browser.get(path) for browser in people]
    return [(answer.status_code, re.sub(r'name="(csrf|once)" value="[^"]+"', "", answer.text)) for answer in found]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_the_same(people, path):
    of_sqlite, of_postgresql = answers(people, path)
    assert of_sqlite[0] == 200
    assert re.search(PAGES[path], of_sqlite[1])
    assert of_postgresql == of_sqlite


def equal_pages(people, path, following):
    """Return how many pages there are, from the first to the one without a link to the following page."""
    count = 0
    while path:
        of_sqlite, of_postgresql = answers(people, path)
        assert of_postgresql == of_sqlite
        link = re.search(rf'href="({path.partition("?")[0]}\?[^"]*{following}=[^"]*)"', of_sqlite[1])
        path, count = link and link[1].replace("&amp;", "&"), count + 1
    return count


def test_a_search_is_the_same_on_its_later_pages(people):
    assert equal_pages(people, "/search", "before") == 2


def test_a_review_goes_through_the_same_parts(people):
    assert equal_pages(people, "/review", "after") > 30


def test_every_page_is_compared():
    asked = {re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path)): route.path for route in routes.ROUTES}
    compared = {name for pattern, name in asked.items() for path in PAGES if pattern.fullmatch(path.split("?")[0])}
    assert {route.path for route in routes.ROUTES if route.method == "GET"} - WITHOUT_ARCHIVE <= compared
