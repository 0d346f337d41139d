"""The fixtures of the system tests, for the tests of the console."""

from tests.system.conftest import empty_servers  # noqa: F401
