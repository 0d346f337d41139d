import pytest

from patchline import config
from patchline.demo import folder
from patchline.protocol.errors import SetupError


@pytest.mark.parametrize("name", ["thesis.tex", "images", "memory-banks"])
def test_the_demo_never_deletes_a_folder_with_other_files(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(SetupError, match="choose a new or empty folder"):
        folder.prepare(tmp_path)
    assert (tmp_path / name).exists()


def test_the_demo_never_replaces_a_file(tmp_path):
    (tmp_path / "out").write_text("years of work")
    with pytest.raises(SetupError, match="choose a new or empty folder"):
        folder.prepare(tmp_path / "out")


def test_the_demo_clears_what_an_interrupted_demo_left(tmp_path):
    folder.prepare(tmp_path / "demo")
    (tmp_path / "demo" / "images").mkdir()
    (tmp_path / "link").symlink_to("demo")
    folder.prepare(tmp_path / "link")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [".patchline-demo"]


def test_a_demo_writes_only_into_its_folder(tmp_path):
    settings = folder.settings_for(config.load(config.PACKAGED), tmp_path, ["bottle"])
    assert config.load(tmp_path / "config.yaml").paths == settings.paths
    written = [*settings.paths.model_dump(exclude={"models"}).values(), settings.console.database]
    assert [path for path in written if tmp_path not in path.parents] == []
