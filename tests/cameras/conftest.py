"""The fixtures of the system tests, for the tests of cameras."""

from tests.system.conftest import empty_servers, line, stuck_file  # noqa: F401
