"""The fixtures of the system tests, for the tests of cameras."""

import pytest

from tests.system.conftest import empty_servers, line, stuck_file  # noqa: F401


@pytest.fixture
def opened(request):
    """Open a camera, armed: what `camera_with` of the test's file makes. All are closed at the end."""
    cameras = []

    def opened(*arguments, **rules):
        cameras.append(request.module.camera_with(*arguments, **rules))
        cameras[-1].open()
        cameras[-1].arm()
        return cameras[-1]

    yield opened
    for camera in cameras:
        camera.close()
