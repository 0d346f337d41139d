"""What the configurations for Prometheus scrape, on a host, in compose and in Kubernetes, has what the alerts use."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(120)
FOLDER = Path("deploy/prometheus").resolve()
KUBERNETES = Path("deploy/kubernetes").resolve()
CONFIGS = sorted(FOLDER.glob("prometheus*.yml"))
FOR_KUBERNETES = FOLDER / "prometheus.kubernetes.yml"
RULES = FOLDER / "patchline.rules.yml"
SUPERVISOR = {
    "metadata": {"labels": {"app": "patchline-worker"}},
    "spec": {
        "containers": [
            {
                "name": "worker",
                "image": "patchline:latest",
                "ports": [
                    {"name": "metrics", "containerPort": 9099},
                    {"name": "metrics-0", "containerPort": 9100},
                    {"name": "metrics-1", "containerPort": 9101},
                ],
            }
        ]
    },
}


def jobs(file):
    """The jobs of a configuration by name."""
    return {job["job_name"]: job for job in yaml.safe_load(file.read_text())["scrape_configs"]}


def templates():
    """The templates of all pods of the base and the overlays, by name."""
    files = sorted([*KUBERNETES.glob("base/*.yaml"), *KUBERNETES.glob("overlays/*/*.yaml")])
    documents = [one for file in files if file.name != "config.yaml" for one in yaml.safe_load_all(file.read_text())]
    return {one["metadata"]["name"]: one["spec"]["template"] for one in documents if "template" in one.get("spec", ())}


def target(name, template, port, address="10.0.0.1", phase="Running"):
    """A port of a pod, with the labels that Prometheus' discovery gives it (discovery/kubernetes/pod.go there)."""
    labels = {
        "pod_name": name,
        "pod_phase": phase,
        "pod_label_app": template["metadata"]["labels"]["app"],
        "pod_container_port_name": port["name"],
        "pod_container_port_number": str(port["containerPort"]),
    }
    labels = {f"__meta_kubernetes_{label}": value for label, value in labels.items()}
    return {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}


def without_kubernetes(folder):
    """Write the configuration for Kubernetes with a file in the place of its discovery, which Debian has left out."""
    document = yaml.safe_load(FOR_KUBERNETES.read_text())
    for job in document["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["file_sd_configs"] = [{"files": ["pods.json"]}]
    (folder / RULES.name).write_text(RULES.read_text())
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    return folder / "prometheus.yml"


def kept(job, targets, folder):
    """What Prometheus itself keeps of discovered targets for a job: pairs of instance and address."""
    (folder / "pods.json").write_text(json.dumps(targets))
    command = ["promtool", "check", "service-discovery", "--timeout=2s", str(without_kubernetes(folder)), job]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [one["labels"] for one in json.loads(result.stdout) if one.get("labels")]
    return {(labels["instance"], labels["__address__"]) for labels in found}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_promtool_accepts_a_configuration(file, tmp_path):
    if file == FOR_KUBERNETES:
        file = without_kubernetes(tmp_path)
    result = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_configuration_has_the_jobs_that_the_alerts_name(file):
    named = set(re.findall(r'up\{job="(.+?)"', RULES.read_text()))
    assert named == {"patchline", "patchline-console", "rabbitmq"}
    assert named <= jobs(file).keys()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
@pytest.mark.usefixtures("line")
def test_rabbitmq_gives_every_metric_of_the_alerts_to_the_request_of_a_configuration(file, servers):
    if servers.broker_metrics_port is None:
        pytest.skip("RabbitMQ is not private")
    job = jobs(file)["rabbitmq"]
    query = urllib.parse.urlencode(job["params"], doseq=True)
    url = f"http://127.0.0.1:{servers.broker_metrics_port}{job['metrics_path']}?{query}"
    used = set(re.findall(r"rabbitmq_\w+(?:\(_total\)\?)?", RULES.read_text()))
    assert len(used) >= 4

    def missing():
        with urllib.request.urlopen(url, timeout=10) as reply:
            given = set(re.findall(r"(?m)^(rabbitmq_\w+)[{ ]", reply.read().decode()))
        return [name for name in used if not any(re.fullmatch(name, metric) for metric in given)]

    wait_for(lambda: missing() == [])  # queues report after some seconds


def test_prometheus_finds_every_process_in_kubernetes_and_the_console_apart(tmp_path):
    pods = {f"{name}-0": template for name, template in templates().items()} | {"patchline-worker-of-two": SUPERVISOR}
    ports = [(name, one, port) for name, one in pods.items() for port in one["spec"]["containers"][0].get("ports", ())]
    port = {"name": "metrics", "containerPort": 9100}
    ended = target("patchline-worker-evicted", pods["patchline-worker-0"], port, phase="Failed")
    discovered = [*(target(name, template, port) for name, template, port in ports), ended]
    found = {job: kept(job, discovered, tmp_path) for job in ("patchline", "patchline-console")}
    wanted = {
        (f"{name}:{port['containerPort']}", f"10.0.0.1:{port['containerPort']}")
        for name, _, port in ports
        if port["name"].startswith("metrics")
    }
    console = {("patchline-console-0:9150", "10.0.0.1:9150")}
    assert found == {"patchline": wanted - console, "patchline-console": console}
    instances = {instance.removeprefix("patchline-") for instance, _ in wanted}
    assert {"worker-0:9100", "publisher-press-3-0:9110", "gate-press-3-0:9120", "archive-0:9140"} <= instances
    assert {"worker-of-two:9099", "worker-of-two:9100", "worker-of-two:9101", "mqtt-press-3-0:9113"} <= instances


def test_prometheus_looks_for_pods_in_the_namespace_of_the_plant_and_may_do_so():
    folder = KUBERNETES / "overlays" / "prometheus"
    namespace = yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"]
    discoveries = [one for job in jobs(FOR_KUBERNETES).values() for one in job.get("kubernetes_sd_configs", ())]
    assert discoveries == [{"role": "pod", "namespaces": {"names": [namespace]}}] * 2
    documents = {one["kind"]: one for one in yaml.safe_load_all((folder / "prometheus.yaml").read_text())}
    assert documents["Role"]["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    account = documents["StatefulSet"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert documents["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]


def test_prometheus_knows_every_node_of_rabbitmq_in_kubernetes_by_its_name():
    """Discovery has no target for a pod without a node, and PatchlineBrokerUnreachable would not fire."""
    (group,) = jobs(FOR_KUBERNETES)["rabbitmq"]["static_configs"]
    conf = (KUBERNETES / "base" / "rabbitmq.conf").read_text()
    nodes = re.findall(r"(?m)^cluster_formation.classic_config.nodes.\d+ = rabbit@(.+)$", conf)
    service, pods = yaml.safe_load_all((KUBERNETES / "base" / "rabbitmq.yaml").read_text())
    namespace = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["namespace"]
    (port,) = [one["port"] for one in service["spec"]["ports"] if one["name"] == "prometheus"]
    assert len(nodes) == pods["spec"]["replicas"]
    assert group["targets"] == [f"{node}.{namespace}:{port}" for node in nodes]
    assert service["spec"]["publishNotReadyAddresses"] is True
