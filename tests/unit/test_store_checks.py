"""What `patchline doctor` finds out about the stores of a plant."""

from contextlib import closing
from pathlib import Path

import pytest

from patchline import config
from patchline.archive import opening as archives
from patchline.banks import opening as banks
from patchline.operations import store_checks
from patchline.operations.findings import State
from tests.unit.test_bank_versions import BANK

CATEGORIES = {"brick": {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def settings(folder, **sections):
    paths = {"archive": folder / "archive", "served_banks": folder / "served"}
    return config.Config.model_validate({"categories": CATEGORIES, "paths": paths, **sections})


def with_banks(folder):
    return settings(folder, banks={"store": folder / "store"})


def found(findings):
    return [(finding.subject, finding.state) for finding in findings]


def test_a_plant_without_stores_has_an_archive_that_is_yet_to_be_made(folder):
    (finding,) = store_checks.run(settings(folder))
    assert finding.state is State.NOTE
    assert "finds no archive; `patchline archive` makes it" in finding.text


def test_the_store_of_banks_is_read_and_its_versions_are_counted(folder):
    plant = with_banks(folder)
    missing, copies, _ = store_checks.run(plant)
    assert (missing.state, copies.state) == (State.PROBLEM, State.OK)
    assert "`patchline banks init` makes one" in missing.text
    versions = banks.versions(plant)
    versions.make()
    version, _ = versions.publish(BANK, "brick", "anna", "why")
    versions.activate("brick", version, "anna", "why")
    read, write, space, *_ = store_checks.run(plant)
    assert (read.state, read.text) == (
        State.OK,
        f"{folder / 'store'}: can be read; 1 of 1 categories have an active version",
    )
    assert "may publish and activate" in write.text
    assert "GB of its disk are free" in space.text
    (folder / "store" / "brick" / "log" / "00000001.json").write_text("{}")
    damaged, *_ = store_checks.run(plant)
    assert damaged.state is State.PROBLEM
    assert "00000001.json" in damaged.text


def test_folders_that_cannot_be_written_are_told_from_those_that_need_not(folder, monkeypatch):
    plant = with_banks(folder)
    versions = banks.versions(plant)
    versions.make()
    versions.publish(BANK, "brick", "anna", "why")
    closed = set()
    monkeypatch.setattr("os.access", lambda path, mode: not closed & {Path(path), *Path(path).parents})
    closed.add(folder / "store" / "brick" / "log")
    assert [state for _, state in found(store_checks.bank_store(plant))] == [State.OK, State.PROBLEM, State.OK]
    closed.add(folder / "store")
    _, write, _, copies, *_ = store_checks.run(plant)
    assert (write.state, copies.state) == (State.NOTE, State.OK)
    assert "the audit log has no reports of its workers" in write.text
    (folder / "store" / "brick" / "reports").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path == folder / "store" / "brick" / "reports")
    _, write, _, copies, *_ = store_checks.run(plant)
    assert (write.state, copies.state) == (State.NOTE, State.PROBLEM)
    assert "reports of its workers are in the audit log" in write.text
    assert "its workers cannot serve a version (paths.served_banks)" in copies.text


def test_the_archive_is_asked_and_its_pictures_have_to_have_room(folder):
    rules = {"decisions": ("fail",), "min_free_bytes": 0}
    plant = settings(folder, archive={"pictures": rules})
    with closing(archives.open_archive(plant)) as archive:
        unprepared, space, missing = store_checks.run(plant)
        assert (unprepared.state, space.state, missing.state) == (State.PROBLEM, State.OK, State.PROBLEM)
        assert "is its disk mounted" in missing.text
        archive.prepare()
    archives.make_folder(plant)
    assert {finding.state for finding in store_checks.run(plant)} == {State.OK}
    full = settings(folder, archive={"pictures": rules | {"min_free_bytes": 10**18}})
    *_, pictures = store_checks.run(full)
    assert pictures.state is State.PROBLEM
    assert "min_free_bytes" in pictures.text


def test_a_disk_with_little_room_is_noted(folder, monkeypatch):
    monkeypatch.setattr(store_checks, "_LITTLE_BYTES", 10**18)
    assert store_checks._space("archive", folder).state is State.NOTE
