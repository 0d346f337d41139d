"""Stores of pictures in memory and in a folder: the contract, and what only a folder has."""

import math
import stat

import pytest

from patchline.archive.folder_store import FolderStore
from patchline.archive.store import MemoryStore, StoreUnavailable
from tests.store_contract import BODY, DIGEST, StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self):
        return MemoryStore()


class TestFolder(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        store = FolderStore(tmp_path / "below" / "pictures")
        store.make()
        return store


def made(folder, min_free_bytes=0):
    store = FolderStore(folder, min_free_bytes)
    store.make()
    return store


def test_a_folder_that_is_missing_is_not_made_by_what_is_put_into_it(tmp_path):
    store = made(tmp_path / "pictures")
    (tmp_path / "pictures").rmdir()
    for action in (store.check, lambda: store.put(DIGEST, BODY), lambda: store.get(DIGEST)):
        with pytest.raises(StoreUnavailable, match="is its disk mounted"):
            action()
    with pytest.raises(StoreUnavailable):
        store.delete(DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_not_finished_is_no_picture(tmp_path):
    store = made(tmp_path)
    (tmp_path / DIGEST[:2]).mkdir()
    (tmp_path / DIGEST[:2] / f".{DIGEST}.part").write_bytes(b"half")
    assert (list(store.list()), store.get(DIGEST)) == ([], None)
    store.put(DIGEST, BODY)
    assert [file.name for file in (tmp_path / DIGEST[:2]).iterdir()] == [DIGEST]
    assert store.get(DIGEST) == BODY


def test_a_disk_without_the_space_that_is_to_be_left_takes_nothing(tmp_path):
    made(tmp_path).put(DIGEST, BODY)
    full = FolderStore(tmp_path, min_free_bytes=10**18)
    other = "f" * 64
    with pytest.raises(StoreUnavailable, match="min_free_bytes"):
        full.put(other, b"x")
    with pytest.raises(StoreUnavailable, match="min_free_bytes"):
        full.check()
    assert full.get(DIGEST) == BODY
    full.delete(DIGEST)
    assert list(full.list()) == []


def test_only_the_owner_can_read_the_folder(tmp_path):
    made(tmp_path / "pictures")
    assert stat.S_IMODE((tmp_path / "pictures").stat().st_mode) == 0o700


def test_the_free_space_of_a_folder_is_known_unless_it_is_missing(tmp_path):
    store = made(tmp_path / "pictures")
    assert store.free_bytes() > 0
    (tmp_path / "pictures").rmdir()
    assert math.isnan(store.free_bytes())
