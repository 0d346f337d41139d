import pytest

from patchline.demo import run
from patchline.protocol.errors import SetupError


def test_the_demo_never_deletes_a_folder_with_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SetupError, match="choose a new or empty folder"):
        run.clear(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_the_demo_clears_what_an_earlier_demo_left(tmp_path):
    for folder in ("images", "memory-banks"):
        (tmp_path / "demo" / folder).mkdir(parents=True)
    run.clear(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
    run.clear(tmp_path / "demo")
