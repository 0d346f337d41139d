"""`patchline size`: what a plant needs, from measured costs."""

import errno
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from patchline import config
from patchline.banks.served_banks import ServedBanks
from patchline.cli import size
from patchline.operations import measured_costs, queue_room, sizing
from patchline.operations.measured_costs import Cost, Costs
from patchline.protocol import topology
from patchline.protocol.errors import IncompleteError, SetupError
from patchline.runtime import connections
from tests import gate_input

COSTS = Costs(Cost(20.0, "a table"), Cost(10.0, "a table"), Cost(3.0, "a table"))
DEMAND = sizing.Demand(lines=16, rate=5.0, image_bytes=100_000, categories=40)
SETTINGS = config.load(config.PACKAGED)
ROWS = {
    "wide, JPEG: worker, an image": (20.0, 0.1),
    "wide, JPEG: RabbitMQ, an image": (1.5, 0.2),
    "default, PNG: worker, an image": (10.0, 0.0),
    "default, PNG: RabbitMQ, an image": (1.0, 0.0),
}


def needs(demand):
    found = sizing.workers(demand, COSTS)
    return {need.what: need.value for need in sizing.needs(demand, COSTS, found, SETTINGS)}


def table(path, rows=None):
    rows = ROWS if rows is None else rows
    entries = [{"name": name, "ours": ours, "spread": spread} for name, (ours, spread) in rows.items()]
    path.write_text(json.dumps({"cpu": "a CPU", "rows": entries}))
    return path


@pytest.mark.parametrize("chips", [False, True])
@pytest.mark.parametrize("larger", ["lines", "rate", "rejects"])
def test_more_load_never_needs_fewer_workers(larger, chips):
    values = [number / 12 for number in range(13)] if larger == "rejects" else range(1, 80)
    counts = [sizing.workers(replace(DEMAND, chips=chips, **{larger: value}), COSTS).count for value in values]
    assert counts == sorted(counts)
    assert (chips and larger == "rejects") or counts[-1] > counts[0]


@pytest.mark.parametrize("p99_ms", [60, 100, 500])
@pytest.mark.parametrize("chips", [False, True])
def test_one_worker_fewer_would_be_refused_as_too_few(chips, p99_ms):
    demand = replace(DEMAND, chips=chips, p99_ms=p99_ms)
    found = sizing.workers(demand, COSTS)
    assert found.utilisation <= sizing.MAX_UTILISATION
    assert found.p99_ms <= p99_ms
    assert sizing.workers(demand, COSTS, found.count) == found
    with pytest.raises(SetupError, match=rf"too few: .* it takes {found.count} or more"):
        sizing.workers(demand, COSTS, found.count - 1)


def test_who_names_far_too_few_workers_is_told_a_number_that_is_enough():
    demand = replace(DEMAND, lines=20, rate=30.0, chips=True)
    with pytest.raises(SetupError, match=r"--workers 1 are too few: above 80% busy; it takes \d+ or more") as refused:
        sizing.workers(demand, COSTS, 1)
    named = int(str(refused.value).split()[-3])
    assert sizing.workers(demand, COSTS, named) == sizing.workers(demand, COSTS)


def test_a_shorter_time_needs_more_workers():
    counts = [sizing.workers(replace(DEMAND, p99_ms=ms), COSTS).count for ms in (500, 200, 100, 45, 20)]
    assert counts == sorted(counts)
    assert counts[-1] >= DEMAND.images_per_s * COSTS.worker.ms / 1000 / 0.01, "99 of 100 find their worker idle"


def test_lines_that_may_trigger_together_need_a_worker_each_if_nobody_may_wait():
    assert sizing.workers(replace(DEMAND, rate=0.01, p99_ms=20), COSTS).count == DEMAND.lines


def test_fewer_rejects_than_those_measured_are_no_credit_and_more_cost_more():
    services = [sizing.workers(replace(DEMAND, rejects=share), COSTS).service_ms for share in (0, 0.1, 0.5)]
    assert services[0] == services[1] == COSTS.worker.ms
    assert services[2] > services[1]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lines", 0, "--lines is 0; it must be a number above 0"),
        ("rate", float("nan"), "--rate is nan"),
        ("rate", float("inf"), "--rate is inf; it must be a number from 1e-09 to 1e\\+12"),
        ("disk_mb_s", 1e-320, "--disk-mb-s is 1e-320; it must be a number from 1e-09 to 1e\\+12"),
        ("image_bytes", -1, "--image-bytes is -1"),
        ("rejects", 1.5, "--rejects is 1.5; it is a share, from 0 to 1"),
        ("rejects", float("nan"), "--rejects is nan"),
        ("hours", 25, "--hours is 25; a day has 24"),
        ("brokers", 2, "--brokers is 2"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_option(key, value, words):
    with pytest.raises(SetupError, match=words):
        replace(DEMAND, **{key: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p99_ms": 19}, "an image alone takes 20.0 ms: no number of workers answers in 19 ms"),
        ({"lines": 10**9, "rate": 1e-9}, "it takes more than 10000 workers"),
        ({"rate": 1e9}, "it takes more than 10000 workers"),
    ],
)
def test_what_no_number_of_workers_can_do_is_said(changes, words):
    with pytest.raises(SetupError, match=words):
        sizing.workers(replace(DEMAND, **changes), COSTS)


@pytest.mark.parametrize("given", [-3, 0, 10**12])
def test_a_number_of_workers_that_no_plant_has_is_refused(given):
    with pytest.raises(SetupError, match=rf"--workers is {given}; it must be a number from 1 to 10000"):
        sizing.workers(DEMAND, COSTS, given)


def test_nothing_in_the_answer_is_rounded_down():
    small = needs(replace(DEMAND, lines=1, rate=0.003))
    assert (small["network into a node"], small["archive, a day"]) == ("1 Mbit/s", "0.1 GB")
    assert float(small["utilisation"]) == 0.01
    assert needs(replace(DEMAND, rate=0.1))["images a second"] == "1.6", "not 1.61: a float is not exact"


def test_a_broker_that_is_larger_than_a_host_is_refused():
    demand = replace(DEMAND, rate=200.0, host_cores=8)
    with pytest.raises(SetupError, match=r"a node of RabbitMQ takes 12.0 cores, and a host has 8"):
        list(sizing.needs(demand, COSTS, sizing.workers(demand, COSTS), SETTINGS))


def test_the_answer_to_the_largest_numbers_is_finite():
    least = replace(DEMAND, rate=1e-9, image_bytes=10**12, disk_mb_s=1e-9, p99_ms=1e12, host_cores=10**12)
    assert all(math.isfinite(float(value.split()[0])) for value in needs(least).values())
    fast = replace(COSTS, worker=Cost(1e-320, "a table"))
    assert sizing.workers(replace(DEMAND, p99_ms=1e12), fast).count == 1


def test_three_brokers_need_three_hosts_and_copies_of_every_image():
    one, three = needs(replace(DEMAND, brokers=1)), needs(DEMAND)
    assert (one["hosts"], three["hosts"]) == ("1", "4")
    assert (one["disks"], three["disks"]) == ("2", "4")
    assert one["network out of it"] == one["network into a node"] == three["network into a node"]
    assert float(three["network out of it"].split()[0]) == pytest.approx(
        3 * float(three["network into a node"].split()[0]), abs=2
    )


def test_the_archive_grows_with_the_hours_and_the_rejects():
    day, shift, clean = (
        float(needs(replace(DEMAND, **changes))["archive, a day"].split()[0])
        for changes in ({}, {"hours": 8.0}, {"rejects": 0.0})
    )
    assert day == pytest.approx(3 * shift, abs=0.2)
    assert clean == pytest.approx(80 * 86_400 * 3_500 / 1e9, abs=0.1)
    assert day > clean


def test_costs_of_a_table_have_their_spread_added(tmp_path):
    costs = measured_costs.read(table(tmp_path / "costs.json"), None, SETTINGS)
    assert costs.worker.ms == pytest.approx(22.0)
    assert costs.rabbitmq.ms == pytest.approx(3.6)
    assert measured_costs.read(table(tmp_path / "costs.json"), "default, PNG", SETTINGS).worker.ms == 10.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "it is no table"),
        ("[]", "it is no table"),
        ('{"rows": [{"name": "x"}]}', "it is no table"),
        ('{"rows": [{"name": "x", "ours": 0, "spread": 0}]}', "'x' is not above 0"),
        ('{"rows": [{"name": "x", "ours": NaN, "spread": 0}]}', "'x' is not above 0"),
        ('{"rows": [{"name": "x", "ours": 1%s, "spread": 0}]}' % ("0" * 400), "it is no table"),
        ('{"rows": [{"name": 5, "ours": 1, "spread": 0}]}', "it has no load"),
        ('{"rows": []}', "it has no load"),
        ("[" * 100_000, "it is no table"),
        (b"\xff", "it is no table"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, text, words):
    path = tmp_path / "costs.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SetupError, match=rf"costs.json: .*{words}"):
        measured_costs.read(path, None, SETTINGS)


def test_a_load_that_the_table_does_not_have_is_refused_with_those_that_it_has(tmp_path):
    with pytest.raises(SetupError, match=r"it has no load 'wide'; its loads: wide, JPEG; default, PNG"):
        measured_costs.read(table(tmp_path / "costs.json"), "wide", SETTINGS)


def test_a_load_without_a_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match="--load 'wide': there is no table, neither --costs nor out"):
        measured_costs.read(None, "wide", SETTINGS, chips=True)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SetupError, match=r"absent.json: No such file or directory; `make bench-against` writes"):
        measured_costs.read(tmp_path / "absent.json", None, SETTINGS)


def test_without_costs_and_without_a_bank_the_command_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = SETTINGS.model_copy(
        update={"paths": SETTINGS.paths.model_copy(update={"memory_banks": tmp_path / "banks"})}
    )
    with pytest.raises(SetupError, match=r"no measured costs: .* name a table with --costs, or fit a category"):
        measured_costs.read(None, None, empty)


def test_with_chips_the_command_needs_neither_a_table_nor_a_bank(tmp_path, monkeypatch):
    result = run(tmp_path, monkeypatch, "--chips")
    assert result.exit_code == 0, result.output
    assert "17.0 ms an image: docs/performance.md, the highest" in result.output


def test_without_a_table_golden_images_are_measured_here_and_the_answer_says_so(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    costs = measured_costs.read(None, None, config.load(plant / "config.yaml"))
    assert costs.worker.ms > 3
    assert costs.worker.source == "measured now: golden image of brick, the slowest, and 3 ms"
    assert costs.host.source == "docs/performance.md, the highest"


def test_a_version_that_a_worker_of_this_host_served_is_measured_too(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = config.load(plant / "config.yaml")
    brick = settings.paths.memory_banks / "brick"
    paths = {"memory_banks": tmp_path, "served_banks": tmp_path / "served"}
    served, version = tmp_path / "served" / "brick", "0" * 64
    shutil.copytree(brick, served / version)
    (served / "served.json").write_text(json.dumps({"version": version}))
    stored = settings.model_copy(
        update={
            "paths": settings.paths.model_copy(update=paths),
            "banks": settings.banks.model_copy(update={"store": tmp_path / "store"}),
        }
    )
    assert measured_costs._folders(stored) == ({"brick": served / version}, {})
    assert measured_costs._folders(settings)[0]["brick"] == brick
    (served / "served.json").write_text("{")
    folders, unknown = measured_costs._folders(stored)
    assert folders == {}
    assert "does not say which bank was served last" in unknown["brick"]


def with_a_damaged_bank(plant, folder):
    """A copy of the plant's banks in which that of brick has a damaged golden image."""
    settings = config.load(plant / "config.yaml")
    shutil.copytree(settings.paths.memory_banks / "brick", folder / "brick")
    image = folder / "brick" / "golden-middle.png"
    image.write_bytes(image.read_bytes()[:500])
    return settings.model_copy(update={"paths": settings.paths.model_copy(update={"memory_banks": folder})})


def test_a_golden_image_that_is_damaged_names_its_bank_and_what_to_do(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = r"memory bank of brick: golden image golden-middle.png cannot be inspected: .*; if .* fit the category again"
    with pytest.raises(SetupError, match=text):
        measured_costs.read(None, None, with_a_damaged_bank(plant, tmp_path / "banks"))


def test_a_damaged_bank_is_named_and_the_others_are_measured(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = with_a_damaged_bank(plant, tmp_path / "banks")
    whole = config.load(plant / "config.yaml")
    cup = tmp_path / "banks" / "cup"
    shutil.copytree(whole.paths.memory_banks / "brick", cup)
    manifest = json.loads((cup / "manifest.json").read_text())
    (cup / "manifest.json").write_text(json.dumps(manifest | {"category": "cup"}))
    both = {"brick": whole.categories["brick"], "cup": whole.categories["brick"]}
    costs = measured_costs.read(None, None, settings.model_copy(update={"categories": both}))
    assert costs.worker.source == "measured now: golden image of cup, the slowest, and 3 ms"
    assert list(costs.unmeasured) == ["brick"]
    assert "golden-middle.png cannot be inspected" in costs.unmeasured["brick"]


def test_a_bank_that_this_user_may_not_read_is_named_and_served_banks_are_not_passed_over(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    is_file, settings = Path.is_file, config.load(plant / "config.yaml")
    both = {"brick": settings.categories["brick"], "cup": settings.categories["brick"]}

    def refuse(path):
        if "cup" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    costs = measured_costs.read(None, None, settings.model_copy(update={"categories": both}))
    assert "golden.json: cannot be read (Permission denied); run it as a user who may" in costs.unmeasured["cup"]
    (tmp_path / "served" / "cup").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"served/cup/.*: cannot be read \(Permission denied\); run it as the user of"):
        ServedBanks(tmp_path / "served", None).categories()
    assert ServedBanks(tmp_path / "absent", None).categories() == []


def test_golden_images_of_which_there_are_none_are_a_damaged_bank(plant, tmp_path, monkeypatch):
    """The command ended with a stack trace, and a worker compared nothing and said nothing of it."""
    monkeypatch.chdir(tmp_path)
    settings = with_a_damaged_bank(plant, tmp_path / "banks")
    file = tmp_path / "banks" / "brick" / "golden.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"images": []}))
    with pytest.raises(SetupError, match=r"golden\.json: images: .* at least 1 item.*; fit the category again"):
        measured_costs.read(None, None, settings)


@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_without_a_bank_says_so_and_ends_with_a_code_of_its_own(as_json, tmp_path, monkeypatch):
    costs = replace(COSTS, unmeasured={"brick": "its golden image is damaged"})
    monkeypatch.setattr(measured_costs, "read", lambda *_: costs)
    result = run(tmp_path, monkeypatch, *(["--json"] if as_json else []))
    assert "banks that were not measured" in result.output
    assert "incomplete, a slower one takes more: brick" in result.output
    assert "network into a node" in result.output
    assert isinstance(result.exception, IncompleteError)
    assert "1 of the memory banks could not be measured: brick: its golden image is damaged" in str(result.exception)
    assert result.exception.exit_code == 1


def full_queues(image_bytes, categories=2, lines=1):
    return {room.queue: room for room in queue_room.rooms(SETTINGS, image_bytes, categories, lines)}


def test_every_queue_with_a_limit_is_in_the_disk_budget():
    """Those of MQTT and of traces are named in the table, and not counted: not every plant has them."""
    plant = connections.plant(SETTINGS, ["*"]) | connections.ledger(SETTINGS) | topology.gate("*", ["*"])
    limited = {queue.name for queue in plant.queues if {"x-max-length", "x-max-length-bytes"} & queue.arguments.keys()}
    assert full_queues(200_000).keys() == limited - {topology.lease_queue("*")}, "it keeps one ping"


def test_a_queue_is_full_at_the_first_of_its_two_limits():
    small, large = full_queues(200_000), full_queues(1_000_000)
    for name in ("patchline.jobs.*", "patchline.backlog.*"):
        assert (small[name].each, large[name].each) == (5_000 * 200_000, SETTINGS.broker.jobs_max_bytes)


def test_the_table_of_the_disk_budget_says_what_the_queues_hold():
    rooms = full_queues(1_000_000)
    page = Path("docs/operations.md").read_text()
    rows = dict(re.findall(r"(?m)^\| RabbitMQ, `(\S+)` \| .* \| ([\d.]+) GB[^|]*\|$", page))
    optional = {"patchline.mqtt.*"}
    assert rows.keys() - optional == rooms.keys()
    assert {name: float(rows[name]) for name in rooms} == {name: room.each / 1e9 for name, room in rooms.items()}
    sums = [math.ceil(queue_room.disk_bytes(list(found.values())) / 1e9) for found in (full_queues(200_000), rooms)]
    text = " ".join(page.split())
    assert f"for two categories and one line {sums[0]} GB with images of 200 kB, and {sums[1]} GB" in text


def test_the_disk_of_rabbitmq_in_kubernetes_has_room_for_full_queues():
    base = Path("deploy/kubernetes/base")
    settings = config.load(base / "config.yaml")
    claim = int(re.search(r"storage: (\d+)Gi", (base / "rabbitmq.yaml").read_text())[1]) * 2**30
    kept_free = int(re.search(r"disk_free_limit.absolute = (\d+)GB", (base / "rabbitmq.conf").read_text())[1]) * 10**9
    rooms = queue_room.rooms(settings, 1_000_000, len(settings.categories), lines=1)
    assert claim >= queue_room.disk_bytes(rooms) + kept_free


def test_the_largest_verdict_that_is_usual_has_room_in_the_budget():
    ids = {"line": "press-3", "category": "solar_cell_mono", "part_id": "press-3-20261130-000123"}
    judged = {
        "model_sha256": "b" * 64,
        "precision": "f32",
        "processor": "Intel(R) Xeon(R) Processor @ 2.10GHz (AVX-512, AMX)",
        "build": "0.1.0+abcdef123456",
        "packages": "openvino 2024.6.0, faiss 1.9.0, numpy 2.1.3, opencv 4.10.0",
    }
    verdict = gate_input.verdict(
        "9e62010d-f205-524d-8f04-0262699605ae",
        1_796_000_353_286,
        captured_at=1_796_000_353_286,
        deadline=1_796_000_363_286,
        score=812.34567,
        scores={"max": 1034.56789, "topk10": 812.34567},
        thresholds={"review": 700.12345, "fail": 901.23456, "patch": 2000.5, "patch_rule": "review"},
        p_value=0.00123456,
        regions=[{"x": 100, "y": 100, "width": 20, "height": 30, "score": 1.2345678}] * 3,
        backbone="efficientnet_lite0/blocks4+10",
        memory_bank="solar_cell_mono",
        bank_version="a" * 64,
        judged_with=judged,
        durations_ms=dict.fromkeys(("decode", "preprocess", "extract", "search", "score"), 1.2345),
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        **ids,
    )
    assert 1_000 < len(verdict.to_json()) < queue_room.MESSAGE_BYTES


def test_the_costs_beside_a_chip_are_those_of_the_benchmark_if_it_was_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"CPU of the workers for an image, 8 devices : 1": (6.0, 0.0), "another row": (99.0, 0.0)}
    (tmp_path / "out").mkdir()
    table(tmp_path / "out" / "bench.json", rows)
    costs = measured_costs.read(table(tmp_path / "costs.json"), None, SETTINGS)
    assert (costs.host.ms, costs.host.source) == (6.0, "out/bench.json")


def test_the_command_prints_what_is_needed_and_what_it_assumes(tmp_path, monkeypatch):
    result = run(tmp_path, monkeypatch, "--chips", "--costs", str(table(tmp_path / "c.json")))
    assert result.exit_code == 0, result.output
    for words in ("chips, each with a worker", "M/G/1, variation 1", "nodes of RabbitMQ", "Mbit/s", "archive, a day"):
        assert words in result.output


def test_the_command_prints_the_same_as_json_with_numbers_and_their_units(tmp_path, monkeypatch):
    result = run(tmp_path, monkeypatch, "--chips", "--json")
    rows = {row["needed"]: row for row in map(json.loads, result.output.splitlines())}
    assert rows["network into a node"]["value"] == 150
    assert rows["network into a node"]["unit"] == "Mbit/s"
    assert rows["images a second"]["assumed"] == "16 lines of 5 parts/s"


def run(folder, monkeypatch, *options):
    monkeypatch.chdir(folder)
    app = typer.Typer()
    app.command()(size.size)
    return CliRunner().invoke(app, ["--lines", "16", "--rate", "5", *options])
