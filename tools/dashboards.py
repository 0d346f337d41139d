"""`python -m tools.dashboards`: generate the Grafana dashboards in `deploy/grafana/dashboards`."""

from __future__ import annotations

import json
from pathlib import Path

from tools.dashboard_panels import ARCHIVE, BANKS, CAMERA, CONSOLE, LINE, PLANT, Panel

FOLDER = Path("deploy/grafana/dashboards")
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 7


def plant() -> dict[str, object]:
    """Return the dashboard of the whole plant."""
    return _dashboard("patchline-plant", "Patchline: plant", (*PLANT, *ARCHIVE, *BANKS, *CONSOLE), [])


def line() -> dict[str, object]:
    """Return the dashboard of one line, which is selected at its top."""
    query = "label_values(patchline_images_total, line)"
    variable = {"name": "line", "label": "Line", "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2}
    return _dashboard("patchline-line", "Patchline: line", (*LINE, *CAMERA), [variable])


def write(folder: Path = FOLDER) -> None:
    """Write both dashboards as Grafana provisions them."""
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
    position = {"x": number % 3 * _WIDTH, "y": number // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    write()
