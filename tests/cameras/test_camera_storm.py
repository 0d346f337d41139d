"""A camera's process that is killed and frozen while parts pass: a short run. tests/chaos has the long one."""

import pytest

from tests import camera_storm

pytestmark = pytest.mark.timeout(300)


def test_parts_of_a_camera_that_is_killed_and_frozen_are_all_answered_for(line, tmp_path):
    result = camera_storm.run(line, tmp_path / "line", "simulated:frame_s=0.02", kills=3, freezes=2)
    assert result.holds, result
    assert result.judged > 0
    assert result.judged + sum(result.no_image.values()) == result.announced
