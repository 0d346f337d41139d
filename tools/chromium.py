"""Chromium of Debian without a window, for tests of the console and for its screenshots. The only playwright user."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

# Chromium's sandbox needs rights that root in a container does not have. It loads only pages of our own.
_OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]


def path() -> str | None:
    """Return where Chromium is installed; None if it is not."""
    return shutil.which("chromium")


@contextmanager
def running() -> Iterator[Browser]:
    """Start Chromium, and end it. Playwright's own browsers are not used, and not downloaded."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path(), args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()
