"""Queries to the HTTP API of a Prometheus."""

import json
import urllib.parse
import urllib.request


def query(url, expression):
    """The values of the samples that an expression has now."""
    parameters = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{parameters}", timeout=5) as reply:
        return [float(sample["value"][1]) for sample in json.load(reply)["data"]["result"]]


def firing_alerts(url):
    """The names of the alerts that fire now."""
    with urllib.request.urlopen(f"{url}/api/v1/alerts", timeout=5) as reply:
        alerts = json.load(reply)["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
