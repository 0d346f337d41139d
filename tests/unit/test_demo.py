import os

import pytest

from patchline import config
from patchline.demo import folder
from patchline.protocol.errors import SetupError


@pytest.mark.parametrize("name", ["thesis.tex", "images", "memory-banks"])
def test_the_demo_never_deletes_a_folder_with_other_files(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(SetupError, match="choose a new or empty folder"), folder.claimed(tmp_path):
        pass
    assert (tmp_path / name).exists()


def test_the_demo_never_replaces_a_file(tmp_path):
    (tmp_path / "out").write_text("years of work")
    with pytest.raises(SetupError, match="choose a new or empty folder"), folder.claimed(tmp_path / "out"):
        pass


def test_the_demo_clears_what_an_interrupted_demo_left(tmp_path):
    with folder.claimed(tmp_path / "demo"):
        (tmp_path / "demo" / "images").mkdir()
    (tmp_path / "elsewhere").write_text("years of work")
    (tmp_path / "demo" / "linked").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("demo")
    with folder.claimed(tmp_path / "link"):
        assert [path.name for path in (tmp_path / "demo").iterdir()] == [".patchline-demo"]
    assert (tmp_path / "elsewhere").exists()


def test_a_demo_leaves_the_folder_of_one_that_runs_alone(tmp_path):
    """It deleted that folder, and the first one ended with an error about a file."""
    with folder.claimed(tmp_path / "demo"):
        (tmp_path / "demo" / "verdicts").touch()
        with (
            pytest.raises(SetupError, match=rf"a demo runs in this folder; .*--out \(process {os.getpid()}\)"),
            folder.claimed(tmp_path / "demo"),
        ):
            pass
        assert (tmp_path / "demo" / "verdicts").exists()


def test_a_demo_writes_only_into_its_folder(tmp_path):
    settings = folder.settings_for(config.load(config.PACKAGED), tmp_path, ["bottle"])
    assert config.load(tmp_path / "config.yaml").paths == settings.paths
    written = [*settings.paths.model_dump(exclude={"models"}).values(), settings.console.database]
    assert [path for path in written if tmp_path not in path.parents] == []
