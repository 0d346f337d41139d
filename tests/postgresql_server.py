"""A private PostgreSQL for tests."""

import os
from contextlib import contextmanager

import pytest

from patchline.services import postgresql


@contextmanager
def running():
    """Run PostgreSQL. If it is not installed, the test is skipped; in CI it fails."""
    if postgresql.missing_packages():
        text = "not installed: postgresql"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    with postgresql.running() as server:
        yield server
