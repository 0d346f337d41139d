"""A belt with parts while everything around it is killed, frozen and cut. What counts is which part lies in which bin.

PLANT_CAMERA (pylon; files, aravis: eyes.py), PLANT_PLC (modbus; s7, opcua), both also several with commas, PLANT_RATE
(parts a second), PLANT_SCALE (1: ten kills of each process), PLANT_FAULTS (all kinds, or some with commas), PLANT_PARTS
(3000) and PLANT_SEED choose the run.
"""

import json
import os
import time
from dataclasses import asdict

import pytest

from tests.plant import archived, eyes, reckoning, scene
from tests.plant.faults import Faults
from tests.plant.scene import wait_until

CAMERAS = os.environ.get("PLANT_CAMERA", "pylon").split(",")
RATE = float(os.environ.get("PLANT_RATE", "20" if CAMERAS == ["files"] else "10"))
SCALE = float(os.environ.get("PLANT_SCALE", "1"))
PARTS = int(os.environ.get("PLANT_PARTS", "3000"))
SEED = int(os.environ.get("PLANT_SEED", "21"))
PLCS = os.environ.get("PLANT_PLC", "modbus").split(",")
FAULTS = {"camera_kill": 10, "gate_kill": 10, "standby_kill": 10, "worker_kill": 10, "broker_kill": 10, "amqp_cut": 5}
FAULTS |= {"archive_kill": 5}
FAULTS |= {
    "plc_restart": 5,
    "plc_reset": 5,
    "plc_freeze": 5,
    "link_cut": 5,
    "link_loss": 5,
    "link_freeze": 10,
    "gate_freeze": 10,
}
FAULTS |= {"camera_freeze": 10, "camera_loss": 10, "merged_triggers": 5, "packet_loss": 5}
if "PLANT_FAULTS" in os.environ:
    FAULTS = {kind: FAULTS[kind] for kind in os.environ["PLANT_FAULTS"].split(",")}
pytestmark = pytest.mark.timeout(3600)


def finish(belt, faults, goods, camera="files"):
    """Let the belt run empty, and wait for the last acts. Return the reckoning."""
    belt.command("finish")
    assert wait_until(lambda: belt.ledger.of("empty"), 300, 0.5), "the belt stands"
    wait_until(lambda: not reckoning.unnoticed(reckoning.Parts(belt.ledger.events, belt.audit), faults.done), 300, 0.5)
    (belt.folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults.done]))
    held = archived.when_settled(belt.settings, belt.audit)
    (belt.folder / "audit.json").write_text(json.dumps(asdict(belt.audit), default=sorted))
    return reckoning.reckon(belt.ledger.events, belt.audit, faults.done, goods.name, camera, held)


@pytest.mark.parametrize("plc", PLCS)
@pytest.mark.parametrize("camera", CAMERAS)
def test_no_fault_brings_a_part_that_was_not_passed_into_the_good_bin(
    servers_to_kill, goods_for, tmp_path, reckonings, camera, plc
):
    if reason := eyes.missing(camera):
        pytest.skip(reason)
    node, redis_url = servers_to_kill
    goods = goods_for(camera)
    with (
        eyes.eye(camera, tmp_path, goods.pictures, RATE) as eye,
        scene.set_up(goods, tmp_path / "plant", node.url, redis_url, RATE, SEED, plc=plc, eye=eye) as belt,
    ):
        faults = Faults(belt, node, SEED)
        faults.start()
        wanted = {kind: count for kind, count in FAULTS.items() if not eyes.has_no(camera, kind)}
        faults.inject(**{kind: max(1, round(count * SCALE)) for kind, count in wanted.items()})
        assert wait_until(lambda: belt.fallen() >= PARTS * SCALE, 1800, 0.5), "the belt stands"
        result = finish(belt, faults, goods, camera)
    reckonings[plc if camera == "files" else f"{plc}, {camera}"] = result
    assert result.holds if SCALE >= 1 else result.is_safe, result  # a short run may be on a busy machine
    if SCALE >= 1 and "merged_triggers" in result.faults:
        assert result.no_image.get(reckoning.MERGED, 0) > 0


def test_a_gate_that_accepts_what_has_no_verdict_would_be_detected(servers_to_kill, goods_for, tmp_path):
    node, redis_url = servers_to_kill
    goods = goods_for("files")
    with scene.set_up(
        goods, tmp_path / "plant", node.url, redis_url, min(RATE, 10), SEED, broken="accepts_overdue"
    ) as belt:
        faults = Faults(belt, node, SEED)
        faults.start()
        for worker in belt.workers():
            worker.suspend()
        time.sleep(4 * scene.ARM_S)
        result = finish(belt, faults, goods)
    assert result.bad_in_good_bin > 0, result
    assert not result.holds
