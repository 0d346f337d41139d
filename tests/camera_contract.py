"""What every camera must do, whatever it is: a class of tests that each kind of camera inherits."""

import pytest

from patchline.camera.base import CameraLostError, NoFrameError

FRAME_S = 5.0  # generous: the machine may be busy
NO_FRAME_S = 0.2


class CameraContract:
    """The fixtures of a subclass: `camera` is closed and reachable, `kill` makes it unreachable, `revive` undoes that.

    A camera that cannot be killed has none of the last two.
    """

    dies = True

    @pytest.fixture
    def armed(self, camera):
        camera.open()
        camera.arm()
        yield camera
        camera.close()

    def test_each_trigger_gives_one_frame(self, armed):
        frames = []
        for _ in range(5):
            armed.arm()
            armed.trigger()
            frames.append(armed.grab(FRAME_S))
        with pytest.raises(NoFrameError):
            armed.grab(NO_FRAME_S)
        assert all(frame.data for frame in frames)
        assert len({frame.data for frame in frames}) == 5

    def test_there_is_no_frame_without_a_trigger(self, armed):
        with pytest.raises(NoFrameError):
            armed.grab(NO_FRAME_S)

    def test_arming_throws_away_the_frame_of_an_earlier_trigger(self, armed):
        armed.trigger()
        armed.arm()
        with pytest.raises(NoFrameError):
            armed.grab(NO_FRAME_S)
        armed.trigger()
        assert armed.grab(FRAME_S).data

    def test_a_closed_camera_is_lost_and_can_be_opened_again(self, armed):
        armed.close()
        armed.close()
        with pytest.raises(CameraLostError):
            armed.trigger()
        with pytest.raises(CameraLostError):
            armed.grab(NO_FRAME_S)
        armed.open()
        armed.arm()
        armed.trigger()
        assert armed.grab(FRAME_S).data

    def test_a_camera_that_dies_is_lost_until_it_is_opened_again(self, armed, request):
        if not self.dies:
            pytest.skip("nothing can take this camera away")
        kill, revive = (request.getfixturevalue(name) for name in ("kill", "revive"))
        kill()
        with pytest.raises(CameraLostError):
            self.use_until_lost(armed)
        armed.close()
        with pytest.raises(CameraLostError):
            armed.open()
        armed.close()
        revive()
        armed.open()
        armed.arm()
        armed.trigger()
        assert armed.grab(FRAME_S).data

    @staticmethod
    def use_until_lost(camera):
        """A dead camera may give no frame for a while, before it is known to be lost."""
        for _ in range(100):
            try:
                camera.trigger()
                camera.grab(NO_FRAME_S)
            except NoFrameError:
                camera.arm()
