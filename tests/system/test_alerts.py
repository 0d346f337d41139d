"""Alerts fire when they should and only then: all of them with promtool, two with a real Prometheus and line."""

import functools
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from patchline.services import private_servers
from tests.system.conftest import wait_for
from tests.system.prometheus import firing_alerts, query

pytestmark = pytest.mark.timeout(180)
RULES = Path("deploy/prometheus/patchline.rules.yml").resolve()
CONFIG = Path("deploy/prometheus/prometheus.yml")
VERDICTS_WAITING = 'rabbitmq_detailed_queue_messages{queue="patchline.verdicts"}'
IMAGES, LABELS = "patchline_images_total", 'line="l",category="c"'


def gate_acts(reject, accept, because="fail"):
    """The acts of one gate: rejected for a reason, and accepted."""
    acts = 'patchline_gate_acts_total{line="l",category="c",instance="i"'
    return {f'{acts},action="reject",because="{because}"}}': reject, f'{acts},action="accept",because="pass"}}': accept}


def drift_charts(share, other):
    """The control charts of a line and a category on two workers."""
    values = {"share": (share, other), "lower_limit": (0.23, 0.23), "upper_limit": (0.805, 0.805)}
    return {
        f'patchline_drift_{name}{{{LABELS},instance="{instance}"}}': f"{value}x10"
        for name, pair in values.items()
        for instance, value in zip("ij", pair, strict=True)
    }


def frame_times(fast, slow):
    """The frames of a camera in each minute: those within 0.1 s, and those between 0.2 and 0.25 s."""
    labels = 'line="l",category="c",instance="i"'
    buckets = {"0.1": fast, "0.2": fast, "0.25": fast + slow, "+Inf": fast + slow}
    name = "patchline_camera_frame_seconds_bucket"
    series = {f'{name}{{{labels},le="{le}"}}': f"0+{count}x20" for le, count in buckets.items()}
    return series | {f"patchline_camera_frame_timeout_seconds{{{labels}}}": "0.25x20"}


# For each alert: series that make it fire, its labels, the evaluation time (minutes), series that do not make it fire.
CASES = {
    "PatchlineLineStopped": (
        {f'{IMAGES}{{{LABELS},decision="pass"}}': "0+60x20 1200x30"},
        {"line": "l"},
        30,
        {f'{IMAGES}{{{LABELS},decision="pass"}}': "0+60x60"},
    ),
    "PatchlineFallingBehind": (
        {"patchline_behind_seconds": "0x5 9x20", f"{IMAGES}{{{LABELS}}}": "0+60x30"},
        {},
        10,
        {"patchline_behind_seconds": "86400x20", f"{IMAGES}{{{LABELS}}}": "0 1x20"},
    ),
    "PatchlineDeadlineMissed": (
        {f'{IMAGES}{{{LABELS},decision="expired"}}': "0+1x20"},
        {"line": "l"},
        10,
        {f'{IMAGES}{{{LABELS},decision="expired"}}': "7x20"},
    ),
    "PatchlineErrorShare": (
        {f'{IMAGES}{{{LABELS},decision="error"}}': "0+5x30", f'{IMAGES}{{{LABELS},decision="pass"}}': "0+95x30"},
        {"line": "l"},
        20,
        {f'{IMAGES}{{{LABELS},decision="error"}}': "0+1x30", f'{IMAGES}{{{LABELS},decision="pass"}}': "0+999x30"},
    ),
    "PatchlineRejectRateJumped": (
        gate_acts(reject="0+1x600 600+30x60", accept="0+99x660"),
        {"line": "l", "category": "c"},
        640,
        gate_acts(reject="0+7x660", accept="0+93x660"),
    ),
    "PatchlineScoreDrift": (
        {
            'patchline_score_ratio_bucket{category="c",le="0.5"}': "0x100",
            'patchline_score_ratio_bucket{category="c",le="0.8"}': "0+90x100",
            'patchline_score_ratio_bucket{category="c",le="+Inf"}': "0+100x100",
            'patchline_calibrated_score_ratio{category="c"}': "0.4x100",
        },
        {"category": "c"},
        90,
        {
            'patchline_score_ratio_bucket{category="c",le="0.5"}': "0+90x100",
            'patchline_score_ratio_bucket{category="c",le="0.8"}': "0+95x100",
            'patchline_score_ratio_bucket{category="c",le="+Inf"}': "0+100x100",
            'patchline_calibrated_score_ratio{category="c"}': "0.4x100",
        },
    ),
    "PatchlineScoresOutsideLimits": (
        drift_charts(0.91, other=0.5),
        {"line": "l", "category": "c"},
        2,
        drift_charts(0.8, other=0.24),
    ),
    "PatchlineDeviceHot": (
        {'patchline_device_temperature_celsius{instance="i"}': "90x20"},
        {"instance": "i"},
        10,
        {'patchline_device_temperature_celsius{instance="i"}': "60x20"},
    ),
    "PatchlineDeviceFailing": (
        {'patchline_device_failures_total{instance="i"}': "0+1x20"},
        {"instance": "i"},
        15,
        {'patchline_device_failures_total{instance="i"}': "1x20", 'patchline_device_healthy{instance="i"}': "1x20"},
    ),
    "PatchlineDeviceLost": (
        {'patchline_device_lost{instance="i"}': "0x5 1x20"},
        {"instance": "i"},
        10,
        {'patchline_device_lost{instance="i"}': "0x20"},
    ),
    "PatchlineWorkerDown": (
        {'up{job="patchline",instance="i"}': "1x5 0x20"},
        {"instance": "i", "job": "patchline"},
        10,
        {'up{job="patchline",instance="i"}': "1x20", 'up{job="other",instance="i"}': "0x20"},
    ),
    "PatchlineWorkerRestarting": (
        {'patchline_worker_restarts_total{instance="i",device="cpu:0",cause="ended"}': "0+1x20"},
        {"instance": "i", "device": "cpu:0"},
        15,
        {'patchline_worker_restarts_total{instance="i",device="cpu:0",cause="ended"}': "0x5 1x20"},
    ),
    "PatchlineCategoryNotReady": (
        {'patchline_category_ready{instance="i",category="c"}': "0x20"},
        {"instance": "i", "category": "c"},
        10,
        {'patchline_category_ready{instance="i",category="c"}': "1x20"},
    ),
    "PatchlineBankNotActivated": (
        {'patchline_bank_not_activated{instance="i",category="c"}': "1x20"},
        {"instance": "i", "category": "c"},
        10,
        {'patchline_bank_not_activated{instance="i",category="c"}': "0x20"},
    ),
    "PatchlineShadowBankNotLoaded": (
        {'patchline_shadow_bank_not_loaded{instance="i",category="c"}': "1x20"},
        {"instance": "i", "category": "c"},
        10,
        {'patchline_shadow_bank_not_loaded{instance="i",category="c"}': "1x3 0x20"},
    ),
    "PatchlineBankStoreUnreadable": (
        {'patchline_bank_store_read_timestamp_seconds{instance="i"}': "0+60x5 300x10"},
        {"instance": "i"},
        10,
        {'patchline_bank_store_read_timestamp_seconds{instance="i"}': "0+60x20"},
    ),
    "PatchlineDeadLetters": (
        {'rabbitmq_detailed_queue_messages_ready{queue="patchline.dead"}': "3x20"},
        {},
        10,
        {
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.dead"}': "0x20",
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.bottle"}': "9x20",
        },
    ),
    "PatchlineSuspectsWaiting": (
        {'rabbitmq_detailed_queue_messages{queue="patchline.suspects.bottle"}': "600x20"},
        {},
        10,
        {
            'rabbitmq_detailed_queue_messages{queue="patchline.suspects.bottle"}': "40x20",
            'rabbitmq_detailed_queue_messages{queue="patchline.jobs.bottle"}': "9000x20",
        },
    ),
    "PatchlineCategoryWithoutWorker": (
        {
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.bottle"}': "3x20",
            'rabbitmq_detailed_queue_consumers{queue="patchline.jobs.bottle"}': "0x20",
            'rabbitmq_detailed_queue_consumers{queue="patchline.jobs.cable"}': "1x20",
        },
        {"queue": "patchline.jobs.bottle"},
        10,
        {
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.bottle"}': "3x20",
            'rabbitmq_detailed_queue_consumers{queue="patchline.jobs.bottle"}': "2x20",
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.cable"}': "0x20",
        },
    ),
    "PatchlineVerdictsUnread": (  # long before the queue is full, although somebody reads it
        {
            f"{VERDICTS_WAITING}": "0+10x60",
            'rabbitmq_detailed_queue_consumers{queue="patchline.verdicts"}': "1x60",
            'patchline_queue_max_length{queue="patchline.verdicts"}': "2000x60",
        },
        {"queue": "patchline.verdicts"},
        40,
        {
            f"{VERDICTS_WAITING}": "90000x60",
            'rabbitmq_detailed_queue_consumers{queue="patchline.verdicts"}': "1x60",
            'patchline_queue_max_length{queue="patchline.verdicts"}': "1000000x60",
        },
    ),
    "PatchlineVerdictsRefused": (
        {'patchline_lanes_refused{instance="i"}': "0x5 2x20"},
        {"instance": "i"},
        10,
        {'patchline_lanes_refused{instance="i"}': "0x20"},
    ),
    "PatchlineArchiveNotStoring": (
        {'patchline_archive_ready{instance="i"}': "1x5 0x20"},
        {"instance": "i"},
        10,
        {'patchline_archive_ready{instance="i"}': "1x20"},
    ),
    "PatchlineArchiveUnreadable": (
        {'patchline_archive_rows_total{instance="i",table="unreadable"}': "0x5 1x20"},
        {"instance": "i"},
        8,
        {
            'patchline_archive_rows_total{instance="i",table="unreadable"}': "3x20",
            'patchline_archive_rows_total{instance="i",table="verdicts"}': "0+600x20",
        },
    ),
    "PatchlineLedgerUnread": (  # long before the queue drops something; and also if no archive ever says its limit
        {
            'rabbitmq_detailed_queue_messages{queue="patchline.ledger"}': "0+500x60",
            'rabbitmq_detailed_queue_consumers{queue="patchline.ledger"}': "0x60",
        },
        {"queue": "patchline.ledger"},
        40,
        {
            'rabbitmq_detailed_queue_messages{queue="patchline.ledger"}': "300000x60",
            'rabbitmq_detailed_queue_consumers{queue="patchline.ledger"}': "1x60",
            "patchline_archive_ledger_max_length": "4000000x60",
        },
    ),
    "PatchlinePicturesLost": (
        {'patchline_pictures_lost_total{instance="i",reason="full"}': "0x5 2x20"},
        {"instance": "i"},
        8,
        {
            'patchline_pictures_lost_total{instance="i",reason="full"}': "3x20",
            'patchline_archive_pictures_total{instance="a",state="stored"}': "0+600x20",
        },
    ),
    "PatchlinePicturesNotStored": (
        {
            'patchline_archive_pictures_ready{instance="i"}': "1x5 0x20",
            'patchline_archive_ready{instance="i"}': "1x25",
        },
        {"instance": "i"},
        10,
        {
            'patchline_archive_pictures_ready{instance="i"}': "0x20",
            'patchline_archive_ready{instance="i"}': "0x20",
        },
    ),
    "PatchlinePicturesWaiting": (
        {'rabbitmq_detailed_queue_messages{queue="patchline.pictures"}': "0+50x60"},
        {"queue": "patchline.pictures"},
        40,
        {'rabbitmq_detailed_queue_messages{queue="patchline.pictures"}': " ".join(["0 900"] * 20)},
    ),
    "PatchlineArchiveDiskFilling": (
        {'patchline_archive_store_free_bytes{instance="i"}': "300000000000-100000000x150"},
        {"instance": "i"},
        120,
        {'patchline_archive_store_free_bytes{instance="i"}': "900000000000-100000000x150"},
    ),
    "PatchlineConsoleDown": (
        {'up{job="patchline-console",instance="i"}': "1x5 0x20"},
        {"instance": "i", "job": "patchline-console"},
        10,
        {'up{job="patchline-console",instance="i"}': "0x20", 'up{job="patchline",instance="j"}': "1x5 0x20"},
    ),
    "PatchlineConsoleWithoutArchive": (
        {'patchline_console_archive_answered_timestamp_seconds{instance="i"}': "0+60x5 300x10"},
        {"instance": "i"},
        10,
        {'patchline_console_archive_answered_timestamp_seconds{instance="i"}': "0+60x20"},
    ),
    "PatchlineConsoleLogInsRefused": (
        {'patchline_console_logins_refused_total{instance="i",reason="wrong"}': "0+2x10 20+5x10"},
        {"instance": "i"},
        20,
        {'patchline_console_logins_refused_total{instance="i",reason="wrong"}': "0+1x20 20x20"},
    ),
    "PatchlineSpoolFilling": (
        {'patchline_spool_oldest_age_seconds{line="l",category="c"}': "0+60x20"},
        {"line": "l"},
        10,
        {'patchline_spool_oldest_age_seconds{line="l",category="c"}': "2x20"},
    ),
    "PatchlineFilesDamaged": (
        {'patchline_damaged_files{line="l",instance="i"}': "1x20"},
        {"line": "l", "instance": "i"},
        1,
        {'patchline_damaged_files{line="l",instance="i"}': "0x20"},
    ),
    "PatchlineFolderUnreadable": (
        {'patchline_watched_folder_readable{instance="i",line="l"}': "1x5 0x20"},
        {"instance": "i", "line": "l"},
        10,
        {
            'patchline_watched_folder_readable{instance="i",line="l"}': "1x20",
            'patchline_unreadable_paths{instance="i",line="l"}': "0x20",
        },
    ),
    "PatchlineImagesRefused": (
        {'patchline_published_jobs_total{line="l",category="c",state="refused"}': "0x10 1x20"},
        {"line": "l", "category": "c"},
        15,
        {
            'patchline_published_jobs_total{line="l",category="c",state="refused"}': "7x30",
            'patchline_published_jobs_total{line="l",category="c",state="confirmed"}': "0+600x30",
        },
    ),
    "PatchlineImagesWithoutCategory": (
        {'patchline_refused_images_total{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l", "instance": "i"},
        8,
        {'patchline_refused_images_total{line="l",instance="i"}': "3x20"},
    ),
    "PatchlineImagesVanished": (
        {'patchline_vanished_images_total{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l", "instance": "i"},
        8,
        {'patchline_vanished_images_total{line="l",instance="i"}': "3x20"},
    ),
    "PatchlineWatchedFolderStuck": (
        {'patchline_watched_folder_look_seconds{line="l",instance="i"}': "0x5 60x20"},
        {"line": "l", "instance": "i"},
        8,
        {'patchline_watched_folder_look_seconds{line="l",instance="i"}': "0.2x20"},
    ),
    "PatchlineImagesNotRemembered": (
        {'patchline_unremembered_seconds{line="l",instance="i"}': "0x5 60x20"},
        {"line": "l", "instance": "i"},
        8,
        {'patchline_unremembered_seconds{line="l",instance="i"}': "0.2x20"},
    ),
    "PatchlineCameraLost": (
        {'patchline_camera_ready{line="l",category="c",instance="i"}': "1x5 0x20"},
        {"line": "l", "category": "c", "instance": "i"},
        10,
        {'patchline_camera_ready{line="l",category="c",instance="i"}': "1x20"},
    ),
    "PatchlinePartsWithoutImage": (
        {'patchline_camera_no_image_total{line="l",category="c",instance="i",cause="broken"}': "0x5 1x20"},
        {"line": "l", "category": "c", "instance": "i"},
        8,
        {'patchline_camera_no_image_total{line="l",category="c",instance="i",cause="broken"}': "3x20"},
    ),
    "PatchlineMqttUnread": (
        {'rabbitmq_detailed_queue_consumers{queue="patchline.mqtt.l"}': "1x5 0x20"},
        {"queue": "patchline.mqtt.l"},
        10,
        {
            'rabbitmq_detailed_queue_consumers{queue="patchline.mqtt.l"}': "1x20",
            'rabbitmq_detailed_queue_consumers{queue="patchline.dead"}': "0x20",
        },
    ),
    "PatchlineMqttBehind": (
        {'patchline_mqtt_behind_seconds{line="l",instance="i"}': "0x5 9x20"},
        {"line": "l", "instance": "i"},
        10,
        {'patchline_mqtt_behind_seconds{line="l",instance="i"}': "1x20"},
    ),
    "PatchlineMqttUnbound": (
        {'patchline_mqtt_bound{line="l",instance="i"}': "1x5 0x20"},
        {"line": "l", "instance": "i"},
        10,
        {'patchline_mqtt_bound{line="l",instance="i"}': "1x20"},
    ),
    "PatchlineMqttRefused": (
        {'patchline_mqtt_refused_total{line="l",instance="i",cause="unusable"}': "0x5 1x20"},
        {"line": "l", "instance": "i", "cause": "unusable"},
        8,
        {'patchline_mqtt_refused_total{line="l",instance="i",cause="unusable"}': "3x20"},
    ),
    "PatchlineCameraWithoutFrames": (
        {
            'patchline_camera_triggers_total{line="l",category="c",instance="i"}': "0+60x20",
            'patchline_camera_frames_total{line="l",category="c",instance="i"}': "0+60x5 300x15",
        },
        {"line": "l", "category": "c", "instance": "i"},
        10,
        {
            'patchline_camera_triggers_total{line="l",category="c",instance="i"}': "0+60x20",
            'patchline_camera_frames_total{line="l",category="c",instance="i"}': "0+6x20",
        },
    ),
    "PatchlineCameraSlow": (
        frame_times(fast=50, slow=10),
        {"line": "l", "category": "c", "instance": "i"},
        15,
        frame_times(fast=59, slow=1),
    ),
    "PatchlineCameraExposureChanged": (
        {
            'patchline_camera_brightness{line="l",category="c",instance="i"}': "0.4x10 0.28x30",
            'patchline_camera_fit_brightness{line="l",category="c",instance="i"}': "0.4x40",
        },
        {"line": "l", "category": "c", "instance": "i"},
        35,
        {
            'patchline_camera_brightness{line="l",category="c",instance="i"}': "0.4x10 0.33x30",
            'patchline_camera_fit_brightness{line="l",category="c",instance="i"}': "0.4x40",
        },
    ),
    "PatchlineCameraPlcSilent": (
        {'patchline_camera_plc_silent{line="l",category="c",instance="i"}': "0x5 1x20"},
        {"line": "l", "category": "c", "instance": "i"},
        10,
        {'patchline_camera_plc_silent{line="l",category="c",instance="i"}': "0x20"},
    ),
    "PatchlineCameraTriggersUnread": (
        {
            'patchline_camera_plc_lost_total{line="l",category="c",instance="i"}': "0x20",
            'patchline_camera_plc_restarts_total{line="l",category="c",instance="i"}': "0x5 1x20",
        },
        {"line": "l", "category": "c", "instance": "i"},
        8,
        {
            'patchline_camera_plc_lost_total{line="l",category="c",instance="i"}': "5x20",
            'patchline_camera_plc_restarts_total{line="l",category="c",instance="i"}': "1x20",
        },
    ),
    "PatchlineBrokerUnreachable": (
        {'up{job="rabbitmq",instance="i"}': "0x20"},
        {"instance": "i", "job": "rabbitmq"},
        10,
        {'up{job="rabbitmq",instance="i"}': "1x20"},
    ),
    "PatchlineQueueWithoutLeader": (
        {
            'rabbitmq_detailed_raft_term_total{queue="patchline.jobs.bottle",instance="a"}': "1x5 2 3x20",
            'rabbitmq_detailed_raft_term_total{queue="patchline.verdicts",instance="a"}': "1x20",
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.bottle",instance="b"}': "0x5 stale",
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.verdicts",instance="b"}': "0x20",
        },
        {"queue": "patchline.jobs.bottle"},
        10,
        {
            'rabbitmq_detailed_raft_term_total{queue="patchline.jobs.bottle",instance="a"}': "1x20",
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.bottle",instance="b"}': "0x20",
            'rabbitmq_detailed_raft_term_total{queue="of.others",instance="a"}': "1x20",
        },
    ),
    "PatchlineGateDown": (
        {
            'patchline_gate_serving{line="l",instance="a"}': "1x5 0x20",
            'patchline_gate_serving{line="l",instance="b"}': "0x5",
        },
        {"line": "l"},
        10,
        {
            'patchline_gate_serving{line="l",instance="a"}': "1x5",
            'patchline_gate_serving{line="l",instance="b"}': "0x5 1x20",
            'patchline_gate_serving{line="never used",instance="a"}': "0x20",
        },
    ),
    "PatchlineQueuesMissing": (
        {'patchline_queues_made_again_total{instance="i"}': "0x5 1x20"},
        {"instance": "i"},
        10,
        {'patchline_queues_made_again_total{instance="i"}': "1x20", 'patchline_queues_missing{instance="i"}': "0x20"},
    ),
    "PatchlineGateBlind": (
        {
            'patchline_gate_blind{line="l",instance="i"}': "0x5 1x20",
            'patchline_gate_name_taken{line="l",gate="g",instance="i"}': "0x25",
            'patchline_gate_blind{line="l",instance="other host"}': "0x25",
            'patchline_gate_blind{line="other",instance="i"}': "0x25",
            'patchline_gate_name_taken{line="other",gate="g",instance="i"}': "1x25",
        },
        {"line": "l", "instance": "i"},
        10,
        {
            'patchline_gate_blind{line="l",instance="i"}': "1x20",
            'patchline_gate_name_taken{line="l",gate="g",instance="i"}': "1x20",
        },
    ),
    "PatchlineGateNameTaken": (
        {
            'patchline_gate_name_taken{line="l",gate="g",instance="i"}': "0x5 1x20",
            'patchline_gate_name_taken{line="l",gate="g",instance="other host"}': "0x25",
        },
        {"line": "l", "gate": "g", "instance": "i"},
        10,
        {'patchline_gate_name_taken{line="l",gate="g",instance="i"}': "0x20"},
    ),
    "PatchlineGateActFailed": (
        {'patchline_gate_act_failures_total{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l", "instance": "i"},
        7,
        {'patchline_gate_act_failures_total{line="l",instance="i"}': "3x20"},
    ),
    "PatchlineGateJournalNotWritten": (
        {'patchline_gate_journal_failures_total{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l", "instance": "i"},
        10,
        {'patchline_gate_journal_failures_total{line="l",instance="i"}': "3x20"},
    ),
    "PatchlineGateOutputSilent": (
        {'patchline_gate_output_silent{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l", "instance": "i"},
        10,
        {'patchline_gate_output_silent{line="l",instance="i"}': "0x20"},
    ),
    "PatchlinePlcStands": (
        {
            'patchline_gate_plc_heartbeat_age_seconds{line="l",instance="i"}': "0x5 60x20",
            'patchline_gate_serving{line="l",instance="i"}': "1x30",
        },
        {"line": "l", "instance": "i"},
        10,
        {
            'patchline_gate_plc_heartbeat_age_seconds{line="l",instance="serving"}': "0.1x30",
            'patchline_gate_serving{line="l",instance="serving"}': "1x30",
            'patchline_gate_plc_heartbeat_age_seconds{line="l",instance="standby"}': "60x30",
            'patchline_gate_serving{line="l",instance="standby"}': "0x30",
        },
    ),
    "PatchlinePartsEscaped": (
        {'patchline_gate_outcomes_total{line="l",outcome="escaped"}': "0x5 1x20"},
        {"line": "l", "outcome": "escaped"},
        7,
        {
            'patchline_gate_outcomes_total{line="l",outcome="escaped"}': "3x20",
            'patchline_gate_outcomes_total{line="l",outcome="unannounced"}': "0+1x20",
        },
    ),
    "PatchlinePartsUnconfirmed": (
        {'patchline_gate_outcomes_total{line="l",outcome="unattended"}': "0x5 1x20"},
        {"line": "l", "outcome": "unattended"},
        7,
        {
            'patchline_gate_outcomes_total{line="l",outcome="unconfirmed"}': "3x20",
            'patchline_gate_outcomes_total{line="l",outcome="escaped"}': "0+1x20",
        },
    ),
    "PatchlinePartsRefused": (
        {
            'patchline_gate_acts_total{line="l",category="c",action="reject",because="no part number"}': "0+60x20",
            'patchline_gate_acts_total{line="l",category="c",action="accept",because="pass"}': "0+1x20",
        },
        {"line": "l", "because": "no part number"},
        7,
        {
            'patchline_gate_acts_total{line="l",category="c",action="reject",because="no part number"}': "0+10x20",
            'patchline_gate_acts_total{line="l",category="c",action="accept",because="pass"}': "0+60x20",
            'patchline_gate_acts_total{line="few",category="c",action="reject",because="no part number"}': "0+1x20",
            'patchline_gate_acts_total{line="f",category="c",action="reject",because="fail"}': "0+60x20",
        },
    ),
    "PatchlinePlcUnknownProduct": (
        {'patchline_gate_plc_unknown_products_total{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l"},
        7,
        {'patchline_gate_plc_unknown_products_total{line="l",instance="i"}': "3x20"},
    ),
    "PatchlinePartsUnannounced": (
        {'patchline_gate_outcomes_total{line="l",outcome="unannounced"}': "0x5 1x20"},
        {"line": "l"},
        7,
        {'patchline_gate_outcomes_total{line="l",outcome="unannounced"}': "3x20"},
    ),
    "PatchlinePlcEventsLost": (
        {'patchline_gate_plc_lost_total{line="l",instance="i"}': "0x5 1x20"},
        {"line": "l", "instance": "i"},
        7,
        {'patchline_gate_plc_lost_total{line="l",instance="i"}': "3x20"},
    ),
    "PatchlineGateQueueGrowing": (
        {'rabbitmq_detailed_queue_messages_ready{queue="patchline.gate.l.a"}': "2000x20"},
        {"queue": "patchline.gate.l.a"},
        10,
        {
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.gate.l.a"}': "3x20",
            'rabbitmq_detailed_queue_messages_ready{queue="patchline.jobs.bottle"}': "9000x20",
        },
    ),
    "PatchlineClocksDiffer": (
        {'patchline_gate_clock_offset_seconds{line="l",source="worker",host="h"}': "-3600x20"},
        {"line": "l", "source": "worker", "host": "h"},
        10,
        {
            'patchline_gate_clock_offset_seconds{line="l",source="worker",host="h"}': "0.02x20",
            'patchline_gate_clock_offset_seconds{line="l",source="publisher",host="l"}': "20x20",
        },
    ),
}


@functools.cache
def rules():
    return {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}


def test_every_alert_has_cases_texts_and_documentation():
    assert rules().keys() == CASES.keys()
    operations = Path("docs/operations.md").read_text()
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "runbook"} == rule["annotations"].keys()
        assert name in operations


def check(alert, tests, folder):
    """Return the complaints of promtool about the tests of an alert.

    promtool evaluates every rule of a file in every minute of a test, so its file has this rule only. The rule has no
    annotations: these contain measured values, and promtool would compare them.
    """
    rule = {key: value for key, value in rules()[alert].items() if key != "annotations"}
    assert set(re.findall('ALERTS{alertname="(.*?)"', rule["expr"])) <= {alert}, "needs the rule of another alert"
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "patchline", "rules": [rule]}]}))
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    return promtool("test", "rules", folder / "test.yml")


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_only_then(alert, tmp_path):
    firing_series, labels, minute, quiet_series = CASES[alert]
    expected = [{"exp_labels": labels | {"severity": rules()[alert]["labels"]["severity"]}}]
    tests = [_case(alert, firing_series, minute, expected), _case(alert, quiet_series, minute, [])]
    assert check(alert, tests, tmp_path) == ""


def minutes(*spells):
    """A series from (value, minutes) pairs."""
    return " ".join(f"{value}x{count - 1}" for value, count in spells)


def fires(alert, series, evaluations, tmp_path):
    """Return the complaints of promtool about an alert. `evaluations` are the label sets of the alerts, by minute."""
    severity = rules()[alert]["labels"]["severity"]
    tests = _case(alert, series, 0, [])
    tests["alert_rule_test"] = [
        {
            "eval_time": f"{minute}m",
            "alertname": alert,
            "exp_alerts": [{"exp_labels": labels | {"severity": severity}} for labels in expected],
        }
        for minute, expected in evaluations.items()
    ]
    return check(alert, [tests], tmp_path)


def documented_targets(job):
    """The addresses that `deploy/prometheus/prometheus.yml` scrapes."""
    configs = {entry["job_name"]: entry for entry in yaml.safe_load(CONFIG.read_text())["scrape_configs"]}
    return [target for group in configs[job]["static_configs"] for target in group["targets"]]


def test_ports_without_a_process_on_the_documented_plant_do_not_page(tmp_path):
    """docs/operations.md: one worker, one gate and one publisher on one host. The other ports have no process."""
    running = {"127.0.0.1:9100", "127.0.0.1:9110"}
    days = 3 * 1440
    series = {
        f'up{{job="patchline",instance="{target}"}}': minutes((1 if target in running else 0, days))
        for target in documented_targets("patchline")
    }
    assert len(series) > len(running)
    nothing = {5: [], 60: [], 1441: [], days - 1: []}
    assert fires("PatchlineWorkerDown", series, nothing, tmp_path) == ""


def test_a_process_that_ended_pages_until_it_is_back(tmp_path):
    labels = {"instance": "127.0.0.1:9100", "job": "patchline"}
    series = {'up{job="patchline",instance="127.0.0.1:9100"}': minutes((1, 60), (0, 3000), (1, 60))}
    expected = {50: [], 65: [labels], 1400: [labels], 3050: [labels], 3070: []}
    assert fires("PatchlineWorkerDown", series, expected, tmp_path) == ""


def test_the_documented_targets_are_the_ports_of_the_configuration_and_the_units():
    settings = yaml.safe_load(Path("config.yaml").read_text())["worker"]
    targets = documented_targets("patchline") + documented_targets("patchline-console")
    ports = {int(target.rsplit(":", 1)[1]) for target in targets}
    assert {settings["supervisor_port"], settings["metrics_port"], settings["metrics_port"] + 1} < ports
    for unit in Path("deploy/systemd").glob("*.service"):
        assert {int(port) for port in re.findall(r"METRICS_PORT=(\d+)", unit.read_text())} < ports


def test_a_stopped_line_pages_until_it_runs_again(tmp_path):
    series = {f'{IMAGES}{{{LABELS},decision="pass"}}': "0+60x20 1200x600 1260+60x60"}
    expected = {15: [], 30: [{"line": "l"}], 100: [{"line": "l"}], 600: [{"line": "l"}], 640: []}
    assert fires("PatchlineLineStopped", series, expected, tmp_path) == ""


def test_a_reject_rate_that_jumps_from_a_high_share_pages(tmp_path):
    series = gate_acts(reject="0+40x600 24000+90x60", accept="0+60x600 36000+10x60")
    expected = {590: [], 640: [{"line": "l", "category": "c"}]}
    assert fires("PatchlineRejectRateJumped", series, expected, tmp_path) == ""


def test_a_line_that_rejects_every_part_pages(tmp_path):
    series = gate_acts(reject="0x600 0+10x60", accept="0+10x600 6000x60", because="review")
    expected = {590: [], 640: [{"line": "l", "category": "c"}]}
    assert fires("PatchlineRejectRateJumped", series, expected, tmp_path) == ""


@pytest.mark.parametrize(
    "series",
    [
        gate_acts(reject="0x600 0+10x60", accept="0+99x660", because="no verdict in time"),
        gate_acts(reject="0x600 0 0 0 1 1 1 1 2 2 2 2 3x50", accept="0+1x660"),
        gate_acts(reject="0+40x660", accept="0+60x660"),
    ],
    ids=["rejected without a verdict", "few parts", "always many rejects"],
)
def test_rejects_that_are_no_jump_do_not_page(series, tmp_path):
    nothing = {minute: [] for minute in range(590, 660, 5)}
    assert fires("PatchlineRejectRateJumped", series, nothing, tmp_path) == ""


def test_scores_below_the_lower_limit_alert_until_a_window_is_within_the_limits(tmp_path):
    series = drift_charts(0.5, other=0.5) | {f'patchline_drift_share{{{LABELS},instance="i"}}': "0.5x5 0.1x5 0.5x9"}
    expected = {4: [], 8: [{"line": "l", "category": "c"}], 14: []}
    assert fires("PatchlineScoresOutsideLimits", series, expected, tmp_path) == ""


def test_an_image_that_cannot_be_read_in_a_folder_that_can_is_alerted_too(tmp_path):
    series = {
        'patchline_watched_folder_readable{instance="i",line="l"}': "1x20",
        'patchline_unreadable_paths{instance="i",line="l"}': "0x5 1x5 0x10",
    }
    expected = {5: [], 9: [{"instance": "i", "line": "l"}], 15: []}
    assert fires("PatchlineFolderUnreadable", series, expected, tmp_path) == ""


def test_unread_verdicts_page_when_nobody_consumes_them(tmp_path):
    waiting = {VERDICTS_WAITING: "0+100x60", 'patchline_queue_max_length{queue="patchline.verdicts"}': "1000000x60"}
    expected = {5: [], 30: [{"queue": "patchline.verdicts"}]}
    assert fires("PatchlineVerdictsUnread", waiting, expected, tmp_path) == ""
    no_consumer = {'rabbitmq_detailed_queue_consumers{queue="patchline.verdicts"}': "0x60"}
    assert fires("PatchlineVerdictsUnread", waiting | no_consumer, expected, tmp_path) == ""


def test_promtool_accepts_the_rules():
    assert promtool("check", "rules", RULES) == ""


def promtool(*arguments):
    """Run promtool and return its complaints, if any."""
    result = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def _case(alert, series, minute, alerts):
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": alerts}],
    }


def test_alerts_fire_on_a_real_prometheus_when_a_line_stops(line, texture_folder, tmp_path, servers):
    short = RULES.read_text().replace("[1h]", "[2m]").replace("[5m]", "[5s]").replace("for: 1m", "for: 1s")
    (tmp_path / "rules.yml").write_text(short)
    worker = line.worker("--device", "cpu")
    targets = {"patchline": [worker.metrics_port]}
    prometheus, url = private_servers.prometheus(tmp_path / "prometheus", targets, tmp_path / "rules.yml")
    with private_servers.start_all([prometheus]):
        image = next((texture_folder / "test" / "good").glob("*.png")).read_bytes()

        def verdict_is_counted():
            line.send(image, "again")
            line.verdicts(1)
            return sum(query(url, "increase(patchline_images_total[5s])")) > 0

        wait_for(verdict_is_counted, timeout_s=60)  # Prometheus needs some seconds for its first scrapes
        assert "PatchlineLineStopped" not in firing_alerts(url)
        worker.kill()
        wait_for(lambda: {"PatchlineLineStopped", "PatchlineWorkerDown"} <= firing_alerts(url), timeout_s=60)
