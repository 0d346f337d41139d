"""Versions of memory banks in a shared store: objects, the log, the copies of a host, and the switch of a worker."""

import errno
import itertools
import json
import os
import shutil
import stat
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from patchline import config
from patchline.banks import bank_list, golden, store
from patchline.banks.fitted import new_categories
from patchline.banks.folder_objects import FolderObjects
from patchline.banks.objects import MemoryObjects, StoreUnavailable
from patchline.banks.served_banks import ServedBanks
from patchline.banks.version_log import State
from patchline.banks.versions import MARK, ChangedMeanwhile, Versions
from patchline.broker.base import Message
from patchline.broker.memory import MemoryBroker
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol import topology
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds
from patchline.runtime import connections
from patchline.runtime.queue_keeper import QueueKeeper, QueueMetrics
from patchline.worker import supply
from patchline.worker.bank_source import BankSource, fitted_categories
from patchline.worker.bank_switch import BankSwitch
from patchline.worker.metrics import Metrics
from patchline.worker.new_categories import MOST, NewCategories, expected
from tests.objects_contract import ObjectsContract

BANK = Path("tests/data/build_5fd44a6/brick")
NOW = 1_800_000_000_000
WHO, WHY = "anna@host", "because"


@pytest.fixture(params=[MemoryObjects, FolderObjects])
def objects(request, tmp_path):
    return FolderObjects(tmp_path / "store") if request.param is FolderObjects else MemoryObjects()


@pytest.fixture
def versions(objects):
    opened = Versions(objects, "STORE", itertools.count(NOW).__next__)
    opened.make()
    return opened


@pytest.fixture
def banks(tmp_path):
    """Folders with three banks of one index and different thresholds."""
    return [make_bank(tmp_path / f"bank-{fail}", fail) for fail in (1000.0, 1100.0, 1200.0)]


def make_bank(folder, fail):
    shutil.copytree(BANK, folder)
    manifest = BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
    thresholds = Thresholds(review=900.0, fail=fail)
    store.replace_manifest(folder, manifest.model_copy(update={"thresholds": thresholds}))
    return folder


def name_folds(folder):
    """Have a bank name other folds than it has."""
    manifest = BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
    store.replace_manifest(folder, manifest.model_copy(update={"folds_sha256": store.digest(b"others")}))
    (folder / "folds.npz").write_bytes(b"folds")


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def published(versions, banks):
    return [versions.publish(folder, "brick", WHO, WHY)[0] for folder in banks]


class TestObjects(ObjectsContract):
    """In memory and in a folder."""


def test_a_folder_that_cannot_be_used_is_not_available(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    objects = FolderObjects(tmp_path / "file")
    for use in (lambda: objects.read("a/b"), lambda: objects.names("a"), lambda: objects.create("a/b", b"")):
        with pytest.raises(StoreUnavailable, match="file"):
            use()


def test_a_full_disk_is_told_and_keeps_no_part_of_a_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    objects = FolderObjects(tmp_path / "store")
    copies = ServedBanks(tmp_path / "copies", Versions(objects, "STORE", lambda: NOW))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match=r"cannot be written \(No space left on device\); make room on its disk"):
        objects.create("file", b"content")
    for _ in range(3):
        with pytest.raises(SetupError, match=r"No space left on device.* and make room there"):
            copies.remember("brick", None, State())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("of_store", "of_files"), [(0o2775, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_what_is_made_in_a_folder_has_the_permissions_of_the_store_whatever_the_umask(tmp_path, of_store, of_files):
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(of_store)
    before = os.umask(0o077)
    try:
        for key in ("mark", "brick/log/1", "brick/log/2"):
            assert FolderObjects(folder).create(key, b"content")
    finally:
        os.umask(before)
    made = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    files = {"mark": of_files, "brick/log/1": of_files, "brick/log/2": of_files}
    assert made == {"brick": of_store, "brick/log": of_store} | files


def test_versions_are_published_activated_rolled_back_and_retired(versions, banks):
    first, second, third = published(versions, banks)
    assert versions.state("brick").active is None
    versions.activate("brick", first, WHO, WHY)
    versions.activate("brick", second, WHO, WHY)
    versions.activate("brick", third, WHO, WHY)
    state = versions.state("brick")
    assert [state.state_of(version) for version in (first, second, third)] == ["published", "previous", "active"]
    versions.retire("brick", second, "bob@host", "scratched")
    assert versions.rollback("brick", WHO, WHY) == first
    with pytest.raises(SetupError, match="no version was active before"):
        versions.rollback("brick", WHO, WHY)
    with pytest.raises(SetupError, match="is retired"):
        versions.activate("brick", second, WHO, WHY)
    with pytest.raises(SetupError, match="active already; anna@host has rolled back to"):
        versions.activate("brick", first, WHO, WHY)
    with pytest.raises(SetupError, match="activate another one first"):
        versions.retire("brick", first, WHO, WHY)
    with pytest.raises(SetupError, match="retired already"):
        versions.retire("brick", second, WHO, WHY)
    acts = [json.loads(line) for line in bank_list.log(versions, "brick")]
    assert [act["act"] for act in acts] == [*["publish"] * 3, *["activate"] * 3, "retire", "rollback"]
    assert (acts[6]["who"], acts[6]["why"], acts[6]["version"]) == ("bob@host", "scratched", second)
    rows = bank_list.rows(versions, "brick", {("brick", first): 2})
    assert [(row[1], row[-2], row[-1]) for row in rows] == [
        ("published", "1200", "0"),
        ("retired", "1100", "0"),
        ("active", "1000", "2"),
    ]


def test_who_has_not_seen_the_last_act_changes_nothing_and_is_told_of_it(versions, banks):
    first, second, third = published(versions, banks)
    seen = len(versions.state("brick").records)
    versions.activate("brick", first, WHO, WHY, seen=seen)
    versions.activate("brick", second, "bob@host", "another", seen=seen + 1)
    versions.shadow("brick", third, 0.5, "bob@host", "a shadow", seen=seen + 2)
    before = versions.state("brick")
    acts = (
        lambda seen: versions.activate("brick", first, WHO, WHY, seen=seen),
        lambda seen: versions.rollback("brick", WHO, WHY, seen=seen),
        lambda seen: versions.shadow("brick", third, 1.0, WHO, WHY, seen=seen),
        lambda seen: versions.end_shadow("brick", WHO, WHY, seen=seen),
        lambda seen: versions.retire("brick", first, WHO, WHY, seen=seen),
    )
    told = rf"nothing was done; bob@host has made a shadow of {third[:12]} \(a shadow\); look, then try again"
    for act in acts:
        with pytest.raises(ChangedMeanwhile, match=told):
            act(seen + 2)
    assert versions.state("brick") == before
    assert versions.rollback("brick", WHO, WHY, seen=seen + 3) == first


def test_a_version_that_was_published_since_is_no_conflict(versions, banks):
    _, second = published(versions, banks[:2])
    seen = len(versions.state("brick").records)
    published(versions, banks[2:])
    versions.activate("brick", second, WHO, WHY, seen=seen)
    assert versions.state("brick").active == second


def test_reports_of_workers_are_read_from_a_time_on(versions):
    for when in (NOW, NOW + 5, NOW + 10):
        versions.report("brick", f"{when}-ab.json", str(when).encode())
    versions.report("brick", "of-a-later-build.json", b"other")
    assert versions.reports("brick", NOW + 5) == [str(NOW + 5).encode(), str(NOW + 10).encode()]
    assert len(versions.reports("brick")) == 4


def test_a_bank_is_published_once(versions, banks):
    (first,) = published(versions, banks[:1])
    assert versions.publish(banks[0], "brick", WHO, WHY) == (first, False)
    assert first == store.load(banks[0]).digest
    (banks[0] / "golden-lowest.png").write_bytes(b"another")
    with pytest.raises(SetupError, match="other golden images"):
        versions.publish(banks[0], "brick", WHO, WHY)


def test_files_that_are_missing_in_the_store_are_named_and_publishing_the_bank_again_brings_them_back(tmp_path, banks):
    versions = Versions(FolderObjects(tmp_path / "store"), "STORE", lambda: NOW)
    versions.make()
    first, second = published(versions, banks[:2])
    folder = tmp_path / "store" / "brick" / "versions" / first
    (folder / store.INDEX_FILE).unlink()
    for act in (versions.activate, lambda *names: versions.shadow(*names[:2], 1.0, *names[2:])):
        with pytest.raises(
            SetupError, match=rf"{first[:12]} lacks {store.INDEX_FILE} in STORE; publish its bank again"
        ):
            act("brick", first, WHO, WHY)
    assert versions.publish(banks[0], "brick", WHO, WHY) == (first, False)
    versions.activate("brick", first, WHO, WHY)
    (folder / store.INDEX_FILE).chmod(0o600)
    (folder / store.INDEX_FILE).write_bytes(b"half of it")
    with pytest.raises(SetupError, match="is damaged; delete the folder of this version and publish again"):
        versions.publish(banks[0], "brick", WHO, WHY)
    shutil.rmtree(folder)
    assert versions.publish(banks[0], "brick", WHO, WHY) == (first, False)
    assert store.load(folder).digest == first
    versions.retire("brick", second, WHO, WHY)
    shutil.rmtree(folder.with_name(second))  # to free the space
    assert versions.publish(banks[1], "brick", WHO, WHY) == (second, False)
    assert not folder.with_name(second).exists()


def test_a_bank_that_a_fit_replaces_while_it_is_published_is_not_mixed_with_the_new_one(versions, banks, monkeypatch):
    read = golden.read

    def replaced_after_the_check(folder):
        shutil.copy(banks[1] / store.MANIFEST_FILE, folder)
        return read(folder)

    monkeypatch.setattr(golden, "read", replaced_after_the_check)
    with pytest.raises(SetupError, match="was replaced meanwhile; publish it again"):
        versions.publish(banks[0], "brick", WHO, WHY)
    assert versions.state("brick").records == ()


def test_the_audit_log_has_the_order_of_the_acts_whatever_the_clocks_say(objects, banks):
    times = iter((NOW, NOW + 5_000, NOW + 1_000))  # of three hosts
    versions = Versions(objects, "STORE", times.__next__)
    versions.make()
    (first,) = published(versions, banks[:1])
    versions.activate("brick", first, WHO, WHY)
    versions.retire("brick", published_by_another(versions, banks[1], NOW + 500), WHO, WHY)
    acts = [json.loads(line)["act"] for line in bank_list.log(versions, "brick")]
    assert acts == ["publish", "activate", "publish", "retire"]


def published_by_another(versions, folder, now_ms):
    """Publish by another host with a clock of its own."""
    other = Versions(versions._objects, "STORE", lambda: now_ms)
    return other.publish(folder, "brick", WHO, WHY)[0]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / store.INDEX_FILE).unlink(), "cannot be read"),
        (lambda folder: (folder / store.INDEX_FILE).write_bytes(b"x"), "is not the index"),
        (lambda folder: (folder / "golden.json").unlink(), "cannot be read"),
        (lambda folder: name_folds(folder), r"folds\.npz: is not the file that the manifest describes"),
    ],
)
def test_a_bank_that_is_incomplete_or_damaged_is_not_published(versions, banks, damage, text):
    damage(banks[0])
    with pytest.raises(SetupError, match=text):
        versions.publish(banks[0], "brick", WHO, WHY)
    assert versions.state("brick").records == ()
    with pytest.raises(SetupError, match="is a memory bank of brick, not of cup"):
        versions.publish(banks[1], "cup", WHO, WHY)


def test_of_two_people_who_activate_at_once_one_is_told_what_the_other_did(objects, banks):
    anna, bob = (Versions(objects, "STORE", lambda: NOW) for _ in range(2))
    anna.make()
    first, second, third = published(anna, banks)
    bob.state("brick")
    create = objects.create

    def anna_is_faster(key, content):
        objects.create = create
        anna.activate("brick", first, WHO, "week 48")
        return create(key, content)

    objects.create = anna_is_faster
    with pytest.raises(ChangedMeanwhile, match=rf"nothing was done; anna@host has activated {first[:12]} \(week 48\)"):
        bob.activate("brick", second, "bob@host", WHY)
    assert anna.state("brick").active == bob.state("brick").active == first
    with pytest.raises(ChangedMeanwhile, match=f"{first[:12]} is active, not {third[:12]}; anna@host has"):
        bob.activate("brick", second, "bob@host", WHY, instead_of=third)
    bob.activate("brick", second, "bob@host", WHY, instead_of=first)
    assert anna.state("brick").active == second


def test_a_store_that_is_not_mounted_is_no_empty_store(tmp_path, banks):
    versions = Versions(FolderObjects(tmp_path / "mount"), "MOUNT", lambda: NOW)
    (tmp_path / "mount").mkdir()
    for use in (versions.state, versions.reports, lambda name: versions.publish(banks[0], name, WHO, WHY)):
        with pytest.raises(StoreUnavailable, match=r"MOUNT: is no store of memory banks, or it is not mounted"):
            use("brick")
    assert files(tmp_path / "mount") == []


def test_a_log_that_was_changed_is_refused(tmp_path, banks):
    objects = FolderObjects(tmp_path / "store")
    versions = Versions(objects, "STORE", lambda: NOW)
    versions.make()
    first, second, _ = published(versions, banks)
    versions.activate("brick", first, WHO, WHY)
    record = tmp_path / "store" / "brick" / "log" / "00000001.json"
    record.write_text(record.read_text().replace(WHY, "another reason"))
    with pytest.raises(SetupError, match=r"00000002.json: does not follow .* the log was changed"):
        Versions(objects, "STORE", lambda: NOW).state("brick")
    versions.activate("brick", second, WHO, WHY)  # whoever has read it before goes on


@pytest.mark.parametrize(("digits", "text"), [("123", "too short"), ("zzzz", "no version of this category; known: ")])
def test_a_version_is_named_by_its_first_digits(versions, banks, digits, text):
    (first,) = published(versions, banks[:1])
    assert versions.state("brick").find(first[:4].upper()) == first
    with pytest.raises(SetupError, match=text):
        versions.state("brick").find(digits)


@pytest.mark.parametrize("why", ["", "x" * 501])
def test_an_act_without_a_reason_is_refused(versions, banks, why):
    with pytest.raises(SetupError, match=r"cannot be written: why: "):
        versions.publish(banks[0], "brick", WHO, why)


class Host:
    """A worker's host: its copies, and a switch whose loader only reads the digest of a bank."""

    def __init__(self, folder, objects):
        self.versions = Versions(objects, "STORE", lambda: NOW)
        self.copies = ServedBanks(folder / "copies", self.versions)
        self.own = folder / "own"
        self.now, self.refused, self.loaded = 100.0, set(), []
        settings = SimpleNamespace(paths=SimpleNamespace(memory_banks=self.own))
        loader = SimpleNamespace(settings=settings, load_folder=self.load_folder)
        self.source = BankSource(loader, self.copies)
        self.metrics = Metrics("cpu:0", ["brick"])
        self.inspectors = {}

    def load_folder(self, name, folder, inspecting=nullcontext):
        bank = store.load(folder)
        self.loaded.append(bank.digest)
        with inspecting():
            if bank.digest in self.refused:
                raise SetupError("golden images have other scores")
        return SimpleNamespace(bank=bank)

    def start(self):
        self.inspectors["brick"] = self.source.load("brick")
        lock = SimpleNamespace(shared=lambda quiet: nullcontext())
        self.switch = BankSwitch(
            self.source, self.versions, self.inspectors, lock, self.metrics, "w", 1.0, lambda: NOW, lambda: self.now
        )

    @property
    def serves(self):
        return self.inspectors["brick"].bank.digest

    def metric(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"patchline_bank_{name}", {"category": "brick"} | labels)


@pytest.fixture
def memory():
    return MemoryObjects()


@pytest.fixture
def central(memory):
    """The store as people use it."""
    versions = Versions(memory, "STORE", itertools.count(NOW).__next__)
    versions.make()
    return versions


@pytest.fixture
def host(tmp_path, memory, banks):
    found = Host(tmp_path, memory)
    shutil.copytree(banks[0], found.own / "brick")
    return found


def test_a_worker_serves_the_bank_of_its_folder_until_a_version_is_activated(host, central, banks):
    host.start()
    own = host.serves
    _, second, _ = published(central, banks)
    host.switch.step()
    assert host.serves == own
    central.activate("brick", second, WHO, WHY)
    host.switch.step()
    assert host.serves == second
    assert host.metric("info", version=second[:12]) == 1
    assert (host.metric("switches_total"), host.metric("not_activated")) == (1, 0)
    host.switch.step()
    assert host.loaded == [own, second]
    (report,) = [json.loads(line) for line in bank_list.log(central, "brick") if "worker" in line]
    assert (report["worker"], report["state"], report["version"]) == ("w", "serving", second)


def test_a_worker_that_cannot_serve_a_version_keeps_the_one_before_says_why_and_tries_again(host, central, banks):
    first, second, third = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    host.refused = {second}
    central.activate("brick", second, WHO, WHY)
    for now in (100.0, 104.0, 105.0, 114.0, 115.0):  # it tries at 100, 105 and 115
        host.now = now
        host.switch.step()
    assert host.loaded == [first, second, second, second]
    assert (host.serves, host.metric("not_activated"), host.metric("switches_total")) == (first, 1, None)
    (report,) = [json.loads(line) for line in bank_list.log(central, "brick") if "worker" in line]
    assert (report["state"], report["reason"]) == ("refused", "golden images have other scores")
    central.activate("brick", third, WHO, WHY)
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (third, 0)
    central.rollback("brick", WHO, WHY)
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (third, 1)
    host.refused, host.now = set(), 200.0
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (second, 0)


def test_a_full_disk_leaves_no_file_of_a_note_that_it_does_not_take(host, central, banks, monkeypatch):
    (first,) = published(central, banks[:1])
    central.activate("brick", first, WHO, WHY)
    host.start()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(3):  # the switch tries again once a minute
        with pytest.raises(SetupError, match="No space left"):
            host.copies.remember("brick", None, central.state("brick"))
    assert sorted(path.name for path in (host.copies.folder / "brick").iterdir()) == sorted([first, "served.json"])
    assert host.copies.last("brick") == host.copies.folder / "brick" / first


def test_a_worker_that_is_refused_a_version_is_content_once_its_own_is_active_again(host, central, banks):
    first, second, _ = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    host.refused = {second}
    central.activate("brick", second, WHO, WHY)
    host.switch.step()
    central.rollback("brick", WHO, WHY)
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (first, 0)


def test_a_worker_without_the_store_serves_what_it_served_and_catches_up(host, central, memory, banks):
    first, second, _ = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    central.activate("brick", second, WHO, WHY)
    memory.available = False
    host.switch.step()
    assert host.serves == first
    host.start()  # also after a restart
    assert host.serves == first
    memory.available = True
    host.switch.step()
    assert host.serves == second


def test_a_worker_that_may_only_read_the_store_switches_all_the_same(host, central, memory, banks):
    first, second, _ = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    central.activate("brick", second, WHO, WHY)

    def refuse(key, _):
        raise StoreUnavailable(f"{key}: cannot be written (Permission denied)")

    memory.create = refuse
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (second, 0)
    assert central.reports("brick") == []


def test_a_damaged_log_of_one_category_does_not_stop_another(host, central, memory, banks):
    first, second, _ = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    host.inspectors = host.switch.inspectors = {"cup": host.inspectors["brick"], **host.inspectors}
    memory.create("cup/log/00000001.json", b"{}")
    central.activate("brick", second, WHO, WHY)
    host.switch.step()
    assert host.serves == second
    assert host.switch._unreadable.startswith("STORE: cup/log/00000001.json: ")


def test_a_worker_starts_with_the_last_version_if_it_cannot_serve_the_active_one(host, central, banks):
    first, second, _ = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    central.activate("brick", second, WHO, WHY)
    host.refused = {second}
    host.start()
    assert host.serves == first
    host.switch.step()
    assert host.metric("not_activated") == 1


def test_a_worker_that_has_never_read_the_store_does_not_guess(host, central, memory):
    memory.available = False
    with pytest.raises(SetupError, match="the store is not available"):
        host.start()
    memory.available = True
    host.start()
    memory.available = False
    host.start()  # the store has said that no version is active
    assert host.serves == store.load(host.own / "brick").digest


def test_a_version_that_is_damaged_in_the_store_is_not_served(tmp_path, banks):
    objects = FolderObjects(tmp_path / "store")
    host = Host(tmp_path / "host", objects)
    host.versions.make()
    first, second, _ = published(host.versions, banks)
    host.versions.activate("brick", first, WHO, WHY)
    host.start()
    index = tmp_path / "store" / "brick" / "versions" / second / store.INDEX_FILE
    content = index.read_bytes()
    index.write_bytes(content[:-1] + b"x")
    host.versions.activate("brick", second, WHO, WHY)
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (first, 1)
    assert files(host.copies.folder / "brick") == sorted([first, "served.json"])
    index.write_bytes(content)
    host.now = 200.0
    host.switch.step()
    assert (host.serves, host.metric("not_activated")) == (second, 0)


def test_a_damaged_copy_is_fetched_again_and_old_copies_are_deleted(host, central, banks):
    first, second, third = published(central, banks)
    central.activate("brick", first, WHO, WHY)
    host.start()
    (host.copies.folder / "brick" / first / store.INDEX_FILE).write_bytes(b"damaged")
    host.start()
    assert host.serves == first
    for version in (second, third):
        central.activate("brick", version, WHO, WHY)
        host.switch.step()
    assert files(host.copies.folder / "brick") == sorted([second, third, "served.json"])


def test_copies_that_a_killed_worker_has_left_unfinished_are_deleted_after_a_day(host, central, banks):
    (first,) = published(central, banks[:1])
    central.activate("brick", first, WHO, WHY)
    left, fresh = (host.copies.folder / "brick" / f".new-{name}" for name in ("left", "fresh"))
    for folder in (left, fresh):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    host.start()
    assert (left.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize(("of_worker", "of_thread"), [(0, 15), (10, 19), (19, 19)])
def test_the_thread_that_loads_is_nicer_than_the_lanes_and_never_asks_for_more(
    host, central, monkeypatch, of_worker, of_thread
):
    asked = []
    monkeypatch.setattr("os.getpriority", lambda _, thread: of_worker)
    monkeypatch.setattr("os.setpriority", lambda _, thread, nice: asked.append((thread, nice)))
    host.start()
    host.switch._stop.set()
    host.switch._run()
    assert asked == [(threading.get_native_id(), of_thread)]


def settings_of(host, categories, like=None):
    banks = SimpleNamespace(new_categories_like=like)
    return SimpleNamespace(categories=categories, paths=SimpleNamespace(memory_banks=host.own), banks=banks)


def test_a_category_is_served_that_only_the_store_has(host, central, banks):
    settings = settings_of(host, ("brick", "cup"))
    shutil.rmtree(host.own)
    with pytest.raises(SetupError, match="no memory bank found"):
        fitted_categories(settings, host.copies)
    (first,) = published(central, banks[:1])
    central.activate("brick", first, WHO, WHY)
    assert fitted_categories(settings, host.copies) == ["brick"]


def test_a_category_that_is_not_configured_is_served_if_others_have_its_recipe(host, central, banks, memory):
    settings = settings_of(host, ("cup",), like="cup")
    with pytest.raises(SetupError, match="no memory bank found"):
        fitted_categories(settings, host.copies)
    (first,) = published(central, banks[:1])
    assert new_categories(settings, host.copies) == [], "it is not active"
    central.activate("brick", first, WHO, WHY)
    assert fitted_categories(settings, host.copies) == ["brick"]
    assert new_categories(settings_of(host, ("cup",)), host.copies) == []
    host.source.load("brick")
    memory.available = False
    assert fitted_categories(settings, host.copies) == ["brick"], "it was served here before"


class Newcomer:
    """What gives a worker its new categories."""

    def __init__(self, found):
        self.found, self.done, self.refused = found, [], False

    def names(self, served):
        return [name for name in self.found if name not in served]

    def prepare(self, name):
        if self.refused:
            raise SetupError("the queues cannot be used")
        self.done.append(("prepared", name))

    def begin(self, name):
        self.done.append(("begun", name))


def test_a_running_worker_begins_to_serve_a_new_category_once_its_bank_is_loaded(host, central, banks):
    (first,) = published(central, banks[:1])
    host.start()
    del host.inspectors["brick"]  # a worker without this category
    host.switch.new = new = Newcomer(["brick"])
    host.switch.step()
    assert (host.inspectors, new.done) == ({}, []), "no version is active"
    central.activate("brick", first, WHO, WHY)
    new.refused = True
    host.switch.step()
    assert (host.inspectors, host.metric("not_activated")) == ({}, 1)
    new.refused = False
    host.now += 5
    host.refused.add(first)
    host.switch.step()
    assert (host.inspectors, new.done) == ({}, [("prepared", "brick")]), "its jobs stay in their queue"
    host.refused.clear()
    host.now += 60
    host.switch.step()
    assert host.serves == first
    assert new.done == [("prepared", "brick")] * 2 + [("begun", "brick")]
    assert host.metric("not_activated") == 0
    host.switch.step()
    assert len(new.done) == 3


def test_a_worker_takes_a_bounded_number_of_new_categories(host, central, monkeypatch):
    broker = MemoryBroker()
    settings = config.load(Path("config.yaml"))
    broker.declare(connections.plant(settings, ["cup"]))
    jobs, suspects = supply.of_jobs(broker, ["cup"], 20), supply.of_suspects(broker, ["cup"])
    keeper = QueueKeeper(broker, settings, topology.NOTHING, topology.NOTHING, QueueMetrics(host.metrics.registry))
    new = NewCategories(settings, host.copies, keeper, jobs, suspects, host.metrics)
    names = [f"new-{number}" for number in range(MOST + 1)]
    monkeypatch.setattr("patchline.banks.fitted.new_categories", lambda *_: names)
    assert new.names(["new-0"]) == names[1:]
    for name in new.names([]):
        new.prepare(name)
        new.begin(name)
        broker.publish(topology.JOBS, f"l1.{name}", Message(b"x", name))
    assert new.names(names[:-1]) == []
    taken = [jobs.take(0.0) for _ in range(MOST)]
    assert {delivery.message.message_id for delivery in taken} == set(names[:-1])
    broker.publish(topology.SUSPECTS, "l1.new-3", Message(b"x", "suspect"))
    assert suspects.take(0.0).message.message_id == "suspect"
    assert jobs.subscribed
    assert host.metrics.registry.get_sample_value("patchline_queues_made_again_total") == 0
    ready = {"category": "new-3"}
    assert host.metrics.registry.get_sample_value("patchline_category_ready", ready) == 1
    assert [
        expected(settings_of(host, (), like), chosen) for like, chosen in ((None, []), ("cup", []), ("cup", ["a"]))
    ] == [
        0,
        MOST,
        0,
    ]


def test_the_name_of_the_mark_of_a_store_does_not_change():
    assert MARK == "patchline-bank-store.json"
