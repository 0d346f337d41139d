"""Grafana's dashboards as code: `python -m tools.dashboards` writes `deploy/grafana/dashboards/*.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("deploy/grafana/dashboards")
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 7
_LINE = '{line=~"$line"}'
_OF_LINE = 'line=~"$line"'


def _scores(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le, category) (rate(patchline_score_ratio_bucket{_LINE}[5m])))"


@dataclass(frozen=True)
class Panel:
    """A question, the queries that answer it with their legends, and the unit."""

    title: str
    queries: dict[str, str]  # by legend
    unit: str = "short"
    kind: str = "timeseries"


PLANT = (
    Panel(
        "Are we keeping up?",
        {
            "arriving": "sum(rate(patchline_published_jobs_total[1m]))",
            "judged": "sum(rate(patchline_images_total[1m]))",
        },
        "ops",
    ),
    Panel("FPS by device", {"{{device}}": "sum by (device) (patchline_fps)"}, "ops"),
    Panel("Jobs in queues", {"{{queue}}": "sum by (queue) (rabbitmq_detailed_queue_messages_ready)"}),
    Panel("Age of jobs when taken", {"{{instance}}": "max by (instance) (patchline_behind_seconds)"}, "s"),
    Panel("Verdicts", {"{{decision}}": "sum by (decision) (rate(patchline_images_total[1m]))"}, "ops"),
    Panel(
        "Capture to verdict",
        {
            "median": "histogram_quantile(0.5, sum by (le) (rate(patchline_capture_to_verdict_seconds_bucket[1m])))",
            "p99": "histogram_quantile(0.99, sum by (le) (rate(patchline_capture_to_verdict_seconds_bucket[1m])))",
        },
        "s",
    ),
    Panel(
        "Time in each stage (mean)",
        {
            "{{stage}}": "sum by (stage) (rate(patchline_stage_seconds_sum[1m]))"
            " / sum by (stage) (rate(patchline_stage_seconds_count[1m]))"
        },
        "s",
    ),
    Panel(
        "Confirmation by RabbitMQ (p99)",
        {"p99": "histogram_quantile(0.99, sum by (le) (rate(patchline_confirm_seconds_bucket[1m])))"},
        "s",
    ),
    Panel("Images that wait on publishers' disks", {"{{line}}": "sum by (line) (patchline_spool_jobs)"}),
    Panel(
        "Workers started again",
        {"{{device}} {{cause}}": "sum by (device, cause) (increase(patchline_worker_restarts_total[10m]))"},
    ),
    Panel(
        "Jobs set apart, Redis failures, device failures",
        {
            "set apart": "sum(increase(patchline_jobs_set_apart_total[10m]))",
            "Redis": "sum(increase(patchline_redis_failures_total[10m]))",
            "device": "sum(increase(patchline_device_failures_total[10m]))",
        },
    ),
    Panel("Errors by reason", {"{{reason}}": "sum by (reason) (increase(patchline_errors_total[10m]))"}),
    Panel("Chip temperature", {"{{instance}}": "patchline_device_temperature_celsius"}, "celsius"),
    Panel("Chip memory", {"{{instance}}": "patchline_device_memory_used_bytes"}, "bytes"),
)
LINE = (
    Panel("Images judged", {"{{category}}": f"sum by (category) (rate(patchline_images_total{_LINE}[1m]))"}, "ops"),
    Panel(
        "Arriving and judged",
        {
            "arriving": f"sum(rate(patchline_published_jobs_total{_LINE}[1m]))",
            "judged": f"sum(rate(patchline_images_total{_LINE}[1m]))",
        },
        "ops",
    ),
    Panel(
        "Deadlines missed",
        {
            "{{category}}": f'sum by (category) (increase(patchline_images_total{{{_OF_LINE},decision="expired"}}[5m]))'
            f" or 0 * sum by (category) (increase(patchline_images_total{_LINE}[5m]))"
        },
    ),
    Panel(
        "Share of each decision",
        {
            "{{decision}}": f"sum by (decision) (rate(patchline_images_total{_LINE}[5m]))"
            f" / ignoring(decision) group_left sum(rate(patchline_images_total{_LINE}[5m]))"
        },
        "percentunit",
    ),
    Panel(
        "Scores, where 1 is the threshold",
        {
            "median {{category}}": _scores(0.5),
            "p95 {{category}}": _scores(0.95),
            "calibrated median {{category}}": "max by (category) (patchline_calibrated_score_ratio)",
        },
    ),
    Panel(
        "Score distribution",
        {"{{le}}": f"sum by (le) (increase(patchline_score_ratio_bucket{_LINE}[5m]))"},
        kind="heatmap",
    ),
    Panel(
        "Spool: oldest image", {"{{category}}": f"max by (category) (patchline_spool_oldest_age_seconds{_LINE})"}, "s"
    ),
    Panel("Publisher", {"{{state}}": f"sum by (state) (rate(patchline_published_jobs_total{_LINE}[1m]))"}, "ops"),
)


def plant() -> dict[str, object]:
    """One overview for the whole plant."""
    return _dashboard("patchline-plant", "Patchline: plant", PLANT, [])


def line() -> dict[str, object]:
    """One page for each line, chosen at its top."""
    query = "label_values(patchline_images_total, line)"
    chosen = {"name": "line", "label": "Line", "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2}
    return _dashboard("patchline-line", "Patchline: line", LINE, [chosen])


def write(folder: Path = FOLDER) -> None:
    """Both, as Grafana's provisioning reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in (("plant", plant()), ("line", line())):
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _dashboard(
    uid: str, title: str, panels: tuple[Panel, ...], variables: list[dict[str, object]]
) -> dict[str, object]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "tags": ["patchline"],
        "schemaVersion": 39,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [source, *variables]},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, object]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
        | ({"format": "heatmap"} if panel.kind == "heatmap" else {})
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    place = {"x": number % 3 * _WIDTH, "y": number // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    write()
