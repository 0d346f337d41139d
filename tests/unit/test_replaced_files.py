"""A file that replaces another one is on the disk before: a power failure leaves the old one or the new one."""

import os
from pathlib import Path

import pytest

from patchline.console import lesson_files
from patchline.runtime import damage
from patchline.trial.memory import Memory


def rescue(file):
    file.write_bytes(b"whole\ntorn")
    damage.replace_text(file, b"whole\n", 0)


@pytest.mark.parametrize(
    "replace",
    [lambda file: lesson_files.write(file, b"{}"), lambda file: Memory(file).save(), rescue],
    ids=["of a lesson", "of a trial", "of lines"],
)
def test_a_file_is_on_the_disk_before_it_replaces_another_one(replace, tmp_path, monkeypatch):
    done, rename = [], Path.replace

    def sync(descriptor):
        done.append(("synced", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def replaced(path, target):
        done.append(("renamed", str(path)))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replaced)
    replace(tmp_path / "state.json")
    (new,) = [path for what, path in done if what == "renamed"]
    assert done.index(("synced", new)) < done.index(("renamed", new))
