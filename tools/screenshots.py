"""`python -m tools.screenshots`: take pictures of the console's pages, for `docs/console.md`.

They show a real line that has judged real pictures a moment ago. Look at each of them before you commit it.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

from tools import chromium, screenshot_line
from tools.screenshot_line import CATEGORIES, PASSWORD, ScreenshotLine

_FOLDER = Path("docs/images")
_SCREEN = ViewportSize(width=1180, height=820)  # of a tablet
_COLORS, _MOST_BYTES = (256, 128, 64, 32), 150_000
_WAIT_MS = 120_000


def main() -> int:
    """Take all pictures."""
    _FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        screenshot_line.running(Path(folder)) as line,
        chromium.running() as browser,
    ):
        page = browser.new_page(viewport=_SCREEN, locale="en-GB", reduced_motion="reduce")
        page.set_default_timeout(_WAIT_MS)
        page.goto(f"{line.url}/login")
        _shoot(page, "login")
        _log_in(page)
        _work(line, page)
        _send(line, page)
        for name, path in (_pages(page, line) | {"lesson": _teach(page, line)}).items():
            page.goto(line.url + path)
            page.wait_for_load_state("networkidle")
            _shoot(page, name)
    return 0


def _log_in(page: Page) -> None:
    page.get_by_label("Name").fill("mei")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/line")


def _work(line: ScreenshotLine, page: Page) -> None:
    """Let the line judge parts, with the live page open, and review some of the first category."""
    for category in CATEGORIES:
        line.make(category)
    page.locator("#rejects img").nth(5).wait_for()
    page.wait_for_timeout(3_000)  # its rates and states are of the last second
    _shoot(page, "line")
    page.goto(f"{line.url}/review")
    part = page.locator("#review h2")
    for key in ("1", "g"):
        name = part.inner_text()
        page.keyboard.press(key)
        expect(part).not_to_have_text(name, timeout=_WAIT_MS)


def _send(line: ScreenshotLine, page: Page) -> None:
    """Send two pictures to the line, and wait for their verdicts."""
    page.goto(f"{line.url}/line/send")
    page.get_by_label("Category").select_option(CATEGORIES[1])
    page.get_by_label("Pictures", exact=True).set_input_files(line.own_pictures(CATEGORIES[1]))
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#sent .result")).to_have_count(2, timeout=_WAIT_MS)
    _shoot(page, "send")


def _pages(page: Page, line: ScreenshotLine) -> dict[str, str]:
    """The path of each picture."""
    page.goto(f"{line.url}/line")
    reject = page.locator("#rejects a").first
    reject.wait_for()
    part = (reject.get_attribute("href") or "").removeprefix(line.url)
    return {
        "part": part,
        "search": "/search?decision=fail&decision=review",
        "review": "/review",
        "report": "/report?since=1h",
        "categories": "/category",
        "category": f"/category/{CATEGORIES[1]}",
        "teach": "/teach",
        "banks": "/banks",
        "bank": f"/banks/{CATEGORIES[1]}",
        "plant": "/plant",
        "accounts": "/accounts?name=anna",
        "audit": "/audit",
    }


def _teach(page: Page, line: ScreenshotLine) -> str:
    """Make a version of a category from its good pictures. Return the path of what the lesson says of it."""
    page.goto(f"{line.url}/teach")
    page.get_by_label("Category").fill(CATEGORIES[0])
    page.get_by_role("button", name="Begin a lesson").click()
    page.get_by_label("Pictures", exact=True).set_input_files(line.good_pictures(CATEGORIES[0]))
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("button", name="Make a version").click()
    page.get_by_text("It judges nothing yet").or_(page.get_by_text("do not look like the others")).wait_for()
    return page.url.removeprefix(line.url) + "#run"


def _shoot(page: Page, name: str) -> None:
    """Write what the window shows, with as many colours as fit into a small file."""
    colored = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    target = _FOLDER / f"{name}.png"
    for colors in _COLORS:
        colored.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size <= _MOST_BYTES:
            break
    print(f"{target}: {colors} colours, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
