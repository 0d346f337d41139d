"""Banks that are prepared once per host: mapped by each worker, with the same scores, made anew if they are damaged."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from patchline.banks import prepared, search_file, store
from patchline.banks.prepared import PreparedBanks
from patchline.banks.store import IndexFile
from patchline.inspection.search import exact_search
from patchline.inspection.search.lazy_distances import LazyDistances
from patchline.protocol.errors import SetupError
from patchline.runtime import disk
from tests.unit.test_memory_bank import saved_bank as saved_bank
from tests.unit.test_search import part_features


@pytest.fixture
def index(saved_bank, tmp_path):
    """The index file of a bank that is large enough for a search with pruning."""
    return save_index(saved_bank, tmp_path / "bank", seed=0)


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def banks(tmp_path, warnings):
    return PreparedBanks(tmp_path / "prepared", warnings.append)


def save_index(saved_bank, folder, seed, rows=700):
    content = exact_search.encode_index(part_features(rows, 152, seed))
    changes = {"patches": rows, "dim": 152, "index_sha256": store.digest(content)}
    store.save(folder, content, saved_bank[2].model_copy(update=changes))
    return IndexFile(folder / store.INDEX_FILE, store.load(folder).manifest)


def files(banks):
    return sorted(banks.folder.glob("brick/*"))


def refuse_to_prepare(features):
    raise AssertionError("the bank is prepared already")


def require_same(one, other, queries):
    for search in (one, other):
        assert search.lower_bounds is not None
    for found, expected in zip(one.nearest(queries), other.nearest(queries), strict=True):
        np.testing.assert_array_equal(found, expected)
    scores = [np.sort(LazyDistances.start(search, queries).largest(10)) for search in (one, other)]
    np.testing.assert_array_equal(*scores)


def test_the_scores_of_a_mapped_bank_are_those_of_a_private_one_to_the_last_bit(banks, index, warnings):
    queries = part_features(300, 152, 1)
    queries[:40] *= 3
    private = store.with_pruning(index)
    require_same(banks.search(index), private, queries)
    require_same(banks.search(index), private, queries)
    assert not warnings


def test_a_small_bank_is_mapped_for_brute_force(banks, saved_bank, tmp_path):
    index = save_index(saved_bank, tmp_path / "small", seed=0, rows=300)
    queries = part_features(100, 152, 1)
    for search in (banks.search(index), banks.search(index)):
        assert search.lower_bounds is None
        np.testing.assert_array_equal(search.nearest(queries), store.with_pruning(index).nearest(queries))


def test_a_bank_is_prepared_once_and_only_mapped_afterwards(banks, index, tmp_path, monkeypatch):
    banks.search(index)
    monkeypatch.setattr(exact_search, "with_pruning", refuse_to_prepare)
    search = PreparedBanks(tmp_path / "prepared", pytest.fail).search(index)
    assert not search.features.flags.writeable
    assert str(files(banks)[0]) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
        lambda path: path.write_bytes(b"?" + path.read_bytes()[1:]),
    ],
)
def test_a_damaged_file_is_made_anew(banks, index, damage, warnings):
    private = store.with_pruning(index)
    banks.search(index)
    (path,) = files(banks)
    content = path.read_bytes()
    damage(path)
    require_same(banks.search(index), private, part_features(100, 152, 1))
    assert path.read_bytes() == content
    assert not warnings


def test_an_index_that_is_damaged_is_refused_although_the_bank_is_prepared(banks, index):
    banks.search(index)
    index.path.write_bytes(index.path.read_bytes()[:-1])
    with pytest.raises(SetupError, match="is not the index that"):
        banks.search(index)


def test_a_folder_that_cannot_be_written_is_told_once_and_banks_are_private(index, tmp_path, warnings):
    (tmp_path / "file").write_text("no folder")
    banks = PreparedBanks(tmp_path / "file", warnings.append)
    private, queries = store.with_pruning(index), part_features(100, 152, 1)
    require_same(banks.search(index), private, queries)
    require_same(banks.search(index), private, queries)
    assert len(warnings) == 1
    assert re.search(r"prepared memory banks cannot be kept .*paths\.served_banks", warnings[0])


def test_a_full_disk_leaves_no_file(banks, index, warnings, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(search_file.os, "fsync", full)
    assert banks.search(index).lower_bounds is not None
    assert not files(banks)
    assert "No space left on device" in warnings[0]


def test_the_files_that_were_opened_last_stay(banks, saved_bank, index, tmp_path):
    """What is mapped can be searched although its file is deleted."""
    first = banks.search(index)
    others = [save_index(saved_bank, tmp_path / f"bank{seed}", seed) for seed in range(1, 6)]
    for other in others:
        banks.search(other)
    kept = {path.name.partition("-")[0] for path in files(banks)}
    assert kept == {other.manifest.index_sha256 for other in others[-4:]}
    require_same(first, store.with_pruning(index), part_features(100, 152, 1))


def test_what_a_killed_worker_left_unfinished_is_deleted_after_a_day(banks, index):
    (banks.folder / "brick").mkdir(parents=True)
    old, new = (banks.folder / "brick" / f"{disk.NEW}{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    banks.search(index)
    assert not old.exists()
    assert new.exists()


def test_the_files_of_a_category_that_is_gone_are_deleted_after_a_month(banks, index):
    banks.search(index)
    banks.forget_all_but(["gasket"])
    assert files(banks)
    os.utime(files(banks)[0], (1, time.time() - 31 * 86_400))
    banks.forget_all_but(["brick"])
    assert files(banks)
    banks.forget_all_but(["gasket"])
    assert not files(banks)


def test_another_cpu_or_numpy_prepares_a_file_of_its_own(banks, index, monkeypatch):
    banks.search(index)
    prepared._key.cache_clear()
    monkeypatch.setattr(exact_search, "blas_kernels", lambda: ("numpy:Haswell",))
    banks.search(index)
    prepared._key.cache_clear()
    assert len(files(banks)) == 2


PREPARE = """
import sys
from pathlib import Path
from patchline.banks import store
from patchline.banks.prepared import PreparedBanks
banks = PreparedBanks(Path(sys.argv[2]), sys.exit)
input()
store.load(Path(sys.argv[1]), banks.search)
print([line.split()[4] for line in open("/proc/self/maps") if "brick/" in line], flush=True)
input()
"""


def test_two_workers_that_start_at_once_map_the_same_file(index, banks):
    """Each may prepare the bank; the first file stays."""
    command = [sys.executable, "-c", PREPARE, str(index.path.parent), str(banks.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    inodes = [worker.stdout.readline() for worker in workers]
    for worker in workers:
        worker.communicate("\n", timeout=60)
    assert inodes[0] == inodes[1]
    assert len(files(banks)) == 1
