"""The panels of the Grafana dashboards: what is asked of Prometheus, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass

_BATCH, _PICTURES = "patchline_archive_batch_seconds", "patchline_archive_picture_batch_seconds"
_LINE = '{line=~"$line"}'
_LINE_EXPIRED = '{line=~"$line",decision="expired"}'


def _score_quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le, category) (rate(patchline_score_ratio_bucket{_LINE}[5m])))"


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard: its title, queries by legend, unit and type."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"


PLANT = (
    Panel(
        "Images arriving and judged",
        {
            "arriving": "sum(rate(patchline_published_jobs_total[1m]))",
            "judged": "sum(rate(patchline_images_total[1m]))",
        },
        "ops",
    ),
    Panel("Throughput by device", {"{{device}}": "sum by (device) (patchline_fps)"}, "ops"),
    Panel("Jobs in the queues", {"{{queue}}": "sum by (queue) (rabbitmq_detailed_queue_messages_ready)"}),
    Panel("Job age at the worker", {"{{instance}}": "max by (instance) (patchline_behind_seconds)"}, "s"),
    Panel("Verdicts by decision", {"{{decision}}": "sum by (decision) (rate(patchline_images_total[1m]))"}, "ops"),
    Panel(
        "Latency from capture to verdict",
        {
            "median": "histogram_quantile(0.5, sum by (le) (rate(patchline_capture_to_verdict_seconds_bucket[1m])))",
            "p99": "histogram_quantile(0.99, sum by (le) (rate(patchline_capture_to_verdict_seconds_bucket[1m])))",
        },
        "s",
    ),
    Panel(
        "Mean time per stage",
        {
            "{{stage}}": "sum by (stage) (rate(patchline_stage_seconds_sum[1m]))"
            " / sum by (stage) (rate(patchline_stage_seconds_count[1m]))"
        },
        "s",
    ),
    Panel(
        "RabbitMQ confirmation latency (p99)",
        {"p99": "histogram_quantile(0.99, sum by (le) (rate(patchline_confirm_seconds_bucket[1m])))"},
        "s",
    ),
    Panel("Images in publisher spools", {"{{line}}": "sum by (line) (patchline_spool_jobs)"}),
    Panel(
        "Worker restarts",
        {"{{device}} {{cause}}": "sum by (device, cause) (increase(patchline_worker_restarts_total[10m]))"},
    ),
    Panel(
        "Suspect jobs, Redis failures, device failures",
        {
            "suspect jobs": "sum(increase(patchline_jobs_set_apart_total[10m]))",
            "Redis": "sum(increase(patchline_redis_failures_total[10m]))",
            "device": "sum(increase(patchline_device_failures_total[10m]))",
        },
    ),
    Panel("Workers by memory bank", {"{{category}} {{version}}": "count by (category, version) (patchline_bank_info)"}),
    Panel("Errors by reason", {"{{reason}}": "sum by (reason) (increase(patchline_errors_total[10m]))"}),
    Panel("Chip temperature", {"{{instance}}": "patchline_device_temperature_celsius"}, "celsius"),
    Panel("Chip memory", {"{{instance}}": "patchline_device_memory_used_bytes"}, "bytes"),
)
_ARCHIVE_QUEUES = '{queue=~"patchline[.](verdicts|ledger|pictures)"}'
ARCHIVE = (
    Panel(
        "Archive: verdicts and messages of the ledger that were stored",
        {
            "verdicts": "sum(rate(patchline_archive_verdicts_total[1m]))",
            "ledger": "sum(rate(patchline_archive_ledger_messages_total[1m]))",
        },
        "ops",
    ),
    Panel(
        "Archive: messages that wait for it",
        {"{{queue}}": f"sum by (queue) (rabbitmq_detailed_queue_messages{_ARCHIVE_QUEUES})"},
    ),
    Panel(
        "Archive: age of what it stored last",
        {
            "verdicts {{instance}}": "max by (instance) (patchline_archive_behind_seconds)",
            "acts {{instance}}": "max by (instance) (patchline_archive_ledger_behind_seconds)",
        },
        "s",
    ),
    Panel(
        "Archive: time to store a batch (p99)",
        {
            "database": f"histogram_quantile(0.99, sum by (le) (rate({_BATCH}_bucket[5m])))",
            "pictures": f"histogram_quantile(0.99, sum by (le) (rate({_PICTURES}_bucket[5m])))",
        },
        "s",
    ),
    Panel(
        "Archive: pictures stored, refused, and left out by workers",
        {
            "{{state}}": "sum by (state) (increase(patchline_archive_pictures_total[5m]))",
            "left out: {{reason}}": "sum by (reason) (increase(patchline_pictures_lost_total[5m]))",
        },
    ),
    Panel(
        "Archive: bytes of the pictures, and free space",
        {
            "{{decision}}": "max by (decision) (patchline_archive_picture_bytes)",
            "free {{instance}}": "min by (instance) (patchline_archive_store_free_bytes)",
        },
        "bytes",
    ),
    Panel(
        "Archive: age of the oldest picture",
        {"{{decision}}": "time() - min by (decision) (patchline_archive_oldest_picture_timestamp_seconds)"},
        "s",
    ),
    Panel(
        "Archive: pictures deleted by the rules",
        {
            "{{decision}}": "sum by (decision) (increase(patchline_archive_pictures_deleted_total[1h]))"
            " or 0 * max by (decision) (patchline_archive_picture_bytes)"
        },
    ),
    Panel(
        "Archive: stores (1) or not (0)",
        {
            "verdicts {{instance}}": "min by (instance) (patchline_archive_ready)",
            "pictures {{instance}}": "min by (instance) (patchline_archive_pictures_ready)",
        },
    ),
)
CONSOLE = (
    Panel(
        "Console: requests by status, log-ins refused",
        {
            "{{status}}": "sum by (status) (rate(patchline_console_requests_total[5m]))",
            "log-ins refused: {{reason}}": "sum by (reason) (rate(patchline_console_logins_refused_total[5m]))",
        },
        "ops",
    ),
    Panel(
        "Console: time to answer (p95)",
        {
            "{{page}}": "histogram_quantile(0.95,"
            " sum by (le, page) (rate(patchline_console_request_seconds_bucket[5m])))"
        },
        "s",
    ),
    Panel(
        "Console: browsers that watch, statuses heard a second",
        {
            "browsers {{instance}}": "max by (instance) (patchline_console_live_browsers)",
            "statuses {{instance}}": "sum by (instance) (rate(patchline_console_statuses_heard_total[1m]))",
        },
    ),
    Panel(
        "Console: time since the archive has answered",
        {"{{instance}}": "time() - max by (instance) (patchline_console_archive_answered_timestamp_seconds)"},
        "s",
    ),
)
BANKS = (
    Panel(
        "Banks: switches of workers to another version",
        {
            "{{category}}": "sum by (category) (increase(patchline_bank_switches_total[10m]))"
            " or 0 * sum by (category) (patchline_bank_info)"
        },
    ),
    Panel(
        "Banks: workers that do not serve the active version",
        {
            "{{category}}": "sum by (category) (patchline_bank_not_activated)"
            " or 0 * sum by (category) (patchline_bank_info)"
        },
    ),
    Panel(
        "Banks: time since the store was read",
        {"{{instance}}": "time() - min by (instance) (patchline_bank_store_read_timestamp_seconds)"},
        "s",
    ),
    Panel(
        "Banks: images that shadows have judged, and that they have not",
        {
            "judged {{category}}": "sum by (category) (increase(patchline_shadow_judged_total[10m]))"
            " or 0 * sum by (category) (patchline_bank_info)",
            "not: {{category}}, {{reason}}": "sum by (category, reason) (increase(patchline_shadow_skipped_total[10m]))"
            " or 0 * sum by (category) (patchline_bank_info)",
        },
    ),
)
LINE = (
    Panel(
        "Images judged by category",
        {"{{category}}": f"sum by (category) (rate(patchline_images_total{_LINE}[1m]))"},
        "ops",
    ),
    Panel(
        "Images arriving and judged",
        {
            "arriving": f"sum(rate(patchline_published_jobs_total{_LINE}[1m]))",
            "judged": f"sum(rate(patchline_images_total{_LINE}[1m]))",
        },
        "ops",
    ),
    Panel(
        "Missed deadlines",
        {
            "{{category}}": f"sum by (category) (increase(patchline_images_total{_LINE_EXPIRED}[5m]))"
            f" or 0 * sum by (category) (increase(patchline_images_total{_LINE}[5m]))"
        },
    ),
    Panel(
        "Share of decisions",
        {
            "{{decision}}": f"sum by (decision) (rate(patchline_images_total{_LINE}[5m]))"
            f" / ignoring(decision) group_left sum(rate(patchline_images_total{_LINE}[5m]))"
        },
        "percentunit",
    ),
    Panel(
        "Scores relative to the threshold",
        {
            "median {{category}}": _score_quantile(0.5),
            "p95 {{category}}": _score_quantile(0.95),
            "median {{category}} at calibration": "max by (category) (patchline_calibrated_score_ratio)",
        },
    ),
    Panel(
        "Drift: parts above the median good image",
        {
            "{{category}} {{instance}}": f"patchline_drift_share{_LINE}",
            "lower limit {{category}}": f"min by (category) (patchline_drift_lower_limit{_LINE})",
            "upper limit {{category}}": f"max by (category) (patchline_drift_upper_limit{_LINE})",
        },
        "percentunit",
    ),
    Panel(
        "Score distribution",
        {"{{le}}": f"sum by (le) (increase(patchline_score_ratio_bucket{_LINE}[5m]))"},
        kind="heatmap",
    ),
    Panel(
        "Age of the oldest spooled image",
        {"{{category}}": f"max by (category) (patchline_spool_oldest_age_seconds{_LINE})"},
        "s",
    ),
    Panel(
        "Actions of the gate",
        {"{{action}}: {{because}}": f"sum by (action, because) (rate(patchline_gate_acts_total{_LINE}[1m]))"},
        "ops",
    ),
    Panel(
        "Parts without a verdict, actions not done",
        {
            "expected {{instance}}": f"max by (instance) (patchline_gate_expected{_LINE})",
            "not done {{instance}}": f"max by (instance) (patchline_gate_undone{_LINE})",
        },
    ),
    Panel(
        "Time until the arm acknowledges (p99), offset of clocks",
        {
            "arm": f"histogram_quantile(0.99, sum by (le) (rate(patchline_gate_act_seconds_bucket{_LINE}[1m])))",
            "{{source}} {{host}}": f"max by (source, host) (abs(patchline_gate_clock_offset_seconds{_LINE}))",
        },
        "s",
    ),
    Panel(
        "PLC: age of its heartbeat, silence, failed reads; the line runs (1) or stands",
        {
            "heartbeat {{instance}}": f"max by (instance) (patchline_gate_plc_heartbeat_age_seconds{_LINE})",
            "silent {{instance}}": f"max by (instance) (patchline_gate_output_silent{_LINE})",
            "failed reads {{instance}}": f"sum by (instance) (rate(patchline_gate_plc_read_failures_total{_LINE}[1m]))",
            "line runs {{instance}}": f"max by (instance) (patchline_gate_line_runs{_LINE})",
        },
    ),
    Panel(
        "Way left before the arm (1% of the parts had less)",
        {"margin": f"histogram_quantile(0.01, sum by (le) (rate(patchline_gate_margin_bucket{_LINE}[5m])))"},
        "percentunit",
    ),
    Panel(
        "Parts that escaped, were missed, diverted or unannounced",
        {"{{outcome}}": f"sum by (outcome) (increase(patchline_gate_outcomes_total{_LINE}[5m]))"},
    ),
    Panel(
        "Published jobs by state",
        {"{{state}}": f"sum by (state) (rate(patchline_published_jobs_total{_LINE}[1m]))"},
        "ops",
    ),
)
CAMERA = (
    Panel(
        "Camera: triggers and frames",
        {
            "triggers {{category}}": f"sum by (category) (rate(patchline_camera_triggers_total{_LINE}[1m]))",
            "frames {{category}}": f"sum by (category) (rate(patchline_camera_frames_total{_LINE}[1m]))",
        },
        "ops",
    ),
    Panel(
        "Camera: parts without an image, by cause (busy: merged triggers)",
        {
            "{{cause}}": f"sum by (cause) (increase(patchline_camera_no_image_total{_LINE}[5m]))",
            "answers that came too late": f"sum(increase(patchline_camera_late_total{_LINE}[5m]))",
        },
    ),
    Panel(
        "Camera: time from trigger to frame",
        {
            "median": f"histogram_quantile(0.5, sum by (le) (rate(patchline_camera_frame_seconds_bucket{_LINE}[1m])))",
            "p99": f"histogram_quantile(0.99, sum by (le) (rate(patchline_camera_frame_seconds_bucket{_LINE}[1m])))",
            "limit": f"min(patchline_camera_frame_timeout_seconds{_LINE})",
        },
        "s",
    ),
    Panel(
        "Camera: age of the last frame",
        {"{{category}}": f"time() - max by (category) (patchline_camera_last_frame_timestamp_seconds{_LINE})"},
        "s",
    ),
    Panel(
        "Camera: open, times opened, parts without a job",
        {
            "open {{category}}": f"min by (category) (patchline_camera_ready{_LINE})",
            "opened {{category}}": f"max by (category) (patchline_camera_opened{_LINE})",
            "parts {{category}}": f"sum by (category) (patchline_camera_open_parts{_LINE})",
        },
    ),
    Panel(
        "Camera: brightness of the images, against those of the fit",
        {
            "now {{category}}": f"avg by (category) (avg_over_time(patchline_camera_brightness{_LINE}[1m]))",
            "at the fit {{category}}": f"max by (category) (patchline_camera_fit_brightness{_LINE})",
            "white pixels {{category}}": f"avg by (category) (avg_over_time(patchline_camera_white_share{_LINE}[1m]))",
        },
        "percentunit",
    ),
    Panel(
        "Camera: its PLC is silent, triggers unread",
        {
            "silent {{category}}": f"max by (category) (patchline_camera_plc_silent{_LINE})",
            "overwritten {{category}}": f"sum by (category) (increase(patchline_camera_plc_lost_total{_LINE}[5m]))",
            "counted anew {{category}}": (
                f"sum by (category) (increase(patchline_camera_plc_restarts_total{_LINE}[5m]))"
            ),
        },
    ),
)
