"""The fixtures of the system tests, for the tests of the stand-in of the Ascend's SDK."""

from tests.system.conftest import empty_servers, line, stuck_file  # noqa: F401
