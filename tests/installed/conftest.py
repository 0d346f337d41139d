"""The fixtures of the system tests, for the tests of what is installed."""

from tests.system.conftest import empty_servers  # noqa: F401
