"""The files in `deploy/`: strict validators accept them, and their commands run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from patchline import config
from patchline.runtime.notify import ALIVE, READY, NotifySocket
from patchline.services import private_servers, server
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(120)
DEPLOY = Path("deploy").resolve()
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SCALING = DEPLOY / "kubernetes" / "overlays" / "keda" / "scaling.yaml"
KUBERNETES_VERSION = "1.32"
BIN = Path(sys.executable).parent


KUSTOMIZATIONS = sorted(file.parent for file in (DEPLOY / "kubernetes").rglob("kustomization.yaml"))


def documents():
    for file in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        if file.name not in ("config.yaml", "kustomization.yaml"):
            for document in yaml.safe_load_all(file.read_text()):
                yield pytest.param(document, id=f"{file.name} {document['kind']}")


@pytest.mark.parametrize("document", [*documents()])
def test_a_kubernetes_document_is_valid(document):
    if document["apiVersion"].startswith("keda.sh"):
        assert keda_errors(document) == ""
        return
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("document", [*documents()])
def test_a_pod_with_metrics_says_so_to_prometheus(document):
    pod = document["spec"].get("template") if "spec" in document else None
    for container in pod["spec"]["containers"] if pod else ():
        for port in container.get("ports", []):
            if port["name"] in ("metrics", "prometheus"):
                wanted = {"prometheus.io/scrape": "true", "prometheus.io/port": str(port["containerPort"])}
                assert pod["metadata"].get("annotations") == wanted


def test_keda_counts_unacknowledged_messages_with_a_secret_of_its_own():
    authentication, scaled = yaml.safe_load_all(SCALING.read_text())
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["protocol"] == "http"
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert [entry["parameter"] for entry in authentication["spec"]["secretTargetRef"]] == ["host"]


def keda_errors(document):
    """Validate a document with KEDA's schema and return the errors."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    command = ["node", "tests/keda/validate.mjs"]
    return subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"maxReplicaCount": "8"}, "maxReplicaCount must be integer"),
        ({"triggers": [{}]}, "must have required property"),
    ],
)
def test_the_keda_schema_rejects_invalid_values(change, error):
    document = yaml.safe_load(SCALING.read_text().split("---")[1])
    assert error in keda_errors(document | {"spec": document["spec"] | change})


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_a_kustomization_lists_every_file(folder):
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    generated = [file for config_map in listed.get("configMapGenerator", []) for file in config_map["files"]]
    files = {*listed["resources"], *generated, "kustomization.yaml"} - {"../../base"}
    assert files == {file.name for file in folder.iterdir()}


def built(folder):
    """The documents of a kustomization, without its patches, and the names of its generated ConfigMaps."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found, config_maps = [], {entry["name"] for entry in kustomization.get("configMapGenerator", [])}
    for name in kustomization["resources"]:
        if (folder / name).is_dir():
            documents, names = built(folder / name)
            found, config_maps = found + documents, config_maps | names
        else:
            found += yaml.safe_load_all((folder / name).read_text())
    return found, config_maps


NAMED = {
    "secretName": "Secret",
    "claimName": "PersistentVolumeClaim",
    "serviceName": "Service",
    "serviceAccountName": "ServiceAccount",
}


def references(node):
    """What a document refers to: pairs of a kind and a name."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in NAMED:
            yield NAMED[key], value
        elif key in ("configMap", "secretKeyRef", "secretRef"):
            yield {"configMap": "ConfigMap"}.get(key, "Secret"), value["name"]
        elif key == "roleRef":
            yield value["kind"], value["name"]
        elif key == "secretTargetRef":
            yield from (("Secret", entry["name"]) for entry in value)
        elif key == "authenticationRef":
            yield "TriggerAuthentication", value["name"]
        elif key == "scaleTargetRef":
            yield "Deployment", value["name"]
        yield from references(value)
    for item in node if isinstance(node, list) else ():
        yield from references(item)


def claims_of(document):
    """The claims of the first pod of a StatefulSet."""
    templates = document.get("spec", {}).get("volumeClaimTemplates", [])
    return [f"{template['metadata']['name']}-{document['metadata']['name']}-0" for template in templates]


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_everything_that_a_kubernetes_document_refers_to_exists(folder):
    """Secrets, and the configuration of Prometheus, are made by the commands in the comments."""
    documents, config_maps = built(folder)
    existing = {(document["kind"], document["metadata"]["name"]) for document in documents}
    existing |= {("ConfigMap", name) for name in config_maps}
    existing |= {("PersistentVolumeClaim", name) for document in documents for name in claims_of(document)}
    texts = "".join(file.read_text() for file in (DEPLOY / "kubernetes").rglob("*.yaml"))
    existing |= {("Secret", name) for name in re.findall(r"kubectl -n patchline create secret generic (\S+)", texts)}
    existing |= {("ConfigMap", name) for name in re.findall(r"kubectl -n patchline create configmap (\S+)", texts)}
    needed = {reference for document in documents for reference in references(document)}
    assert len(needed) > 8
    assert needed <= existing
    hosts = set(re.findall(r"redis://([a-z-]+):", texts))
    assert {("Service", host) for host in hosts} <= existing


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_kustomize_builds_a_plant_in_its_namespace(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    result = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    documents = list(yaml.safe_load_all(result.stdout))
    of_cluster = ("Namespace", "PriorityClass")
    namespaces = {one["metadata"].get("namespace") for one in documents if one["kind"] not in of_cluster}
    assert namespaces == {"patchline"}
    expected, config_maps = built(folder)
    assert len(documents) == len(expected) + len(config_maps)


def test_probes_and_grace_periods_match_the_configuration():
    drain_s = config.load(Path("config.yaml")).worker.drain_s
    for name in (
        "base/worker.yaml",
        "overlays/ascend/worker-ascend.yaml",
        "overlays/ascend-split/worker-ascend-split.yaml",
    ):
        pod = yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > drain_s + 5
        (container,) = pod["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


COMPOSE_FILES = sorted(file.name for file in DEPLOY.glob("compose*.yaml"))


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_a_compose_file_is_valid_and_its_mounts_exist(name):
    checker = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / name)]
    result = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    document = yaml.safe_load((DEPLOY / name).read_text())
    volumes = [volume for service in document["services"].values() for volume in service.get("volumes", [])]
    for source in {volume.split(":")[0] for volume in volumes if volume.startswith("./")}:
        assert (DEPLOY / source).exists(), source
    files = {config["file"] for config in document.get("configs", {}).values() if "file" in config}
    assert all((DEPLOY / file).exists() for file in files)
    main = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    secrets = {name for service in document["services"].values() for name in named(service.get("secrets", []))}
    assert secrets <= {*document.get("secrets", {}), *main["secrets"]}
    for service in document["services"].values():  # a variable names a file that is a secret of the service
        files = [value for name, value in service.get("environment", {}).items() if name.endswith("_FILE")]
        assert {Path(file).name for file in files} <= {*named(service.get("secrets", []))}


def named(secrets):
    """The names of secrets, in their short form or with a target."""
    return [secret if isinstance(secret, str) else secret["source"] for secret in secrets]


def test_an_archive_workers_and_a_console_in_containers_have_what_they_need():
    """The packages are in the image, and the keys reach the processes that use them, in compose and in Kubernetes."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    locked = [Path(name).read_text() for line in lines for name in re.findall(r"-r (\S+\.lock)", line)]
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    chosen = ("s3", "archive-postgres", "console")
    needed = [re.match(r"[\w-]+", one)[0] for extra in chosen for one in extras[extra]]
    assert {"obstore", "psycopg", "starlette", "argon2-cffi"} <= {*needed}
    assert all(re.search(rf"(?m)^{name}==", "\n".join(locked)) for name in needed)
    development = Path("requirements-dev.lock").read_text()
    for name in ("archive", "console"):
        pinned = re.findall(r"(?m)^[a-z][\w-]*==\S+", Path(f"requirements-{name}.lock").read_text())
        assert pinned
        assert all(pin in development for pin in pinned)
    services = yaml.safe_load((DEPLOY / "compose.s3.yaml").read_text())["services"]
    assert {"worker", "archive", "console"} <= {
        name for name in services if "AWS_SECRET_ACCESS_KEY_FILE" in services[name]["environment"]
    }
    for name in (
        "base/worker",
        "base/archive",
        "base/console",
        "overlays/ascend/worker-ascend",
        "overlays/ascend-split/worker-ascend-split",
    ):
        documents = yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
        document = next(one for one in documents if "template" in one.get("spec", {}))
        (container,) = document["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "patchline-s3", "optional": True}}]


def test_a_console_in_containers_reads_the_archive_keeps_its_accounts_and_gives_way_to_the_line():
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["console"]
    mounted = [volume.split(":")[1] for volume in service["volumes"]]
    for file in ("config.compose.yaml", "kubernetes/base/config.yaml"):
        settings = config.load(DEPLOY / file)
        assert settings.console.database.relative_to((DEPLOY / file).parent).parts[0] == "accounts"
        assert settings.console.host == "0.0.0.0"
    assert {"/etc/patchline/accounts", "/etc/patchline/state"} <= {*mounted}
    assert service["cpu_shares"] < 1024
    assert service["depends_on"]["archive"] == {"condition": "service_healthy"}
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    priority, pods, _ = yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / "console.yaml").read_text())
    pod = pods["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == priority["metadata"]["name"]
    assert priority["value"] < 0
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"pages": config.Console().port, "metrics": int(container["args"][2])}
    assert service["command"] == container["args"]
    (near,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    archive = next(yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / "archive.yaml").read_text()))
    assert near["labelSelector"]["matchLabels"] == archive["spec"]["template"]["metadata"]["labels"]


def test_rabbitmq_listens_for_mqtt_in_the_same_way_on_a_host_in_compose_and_in_kubernetes():
    overlay = DEPLOY / "kubernetes" / "overlays" / "mqtt"
    assert (overlay / "mqtt.conf").read_text() == (DEPLOY / "rabbitmq" / "mqtt.conf").read_text()
    configs = yaml.safe_load((DEPLOY / "compose.mqtt.yaml").read_text())["configs"]
    assert configs["rabbitmq_mqtt"]["file"] == "./rabbitmq/mqtt.conf"
    assert configs["rabbitmq_plugins"]["content"] == (overlay / "enabled_plugins").read_text()


def test_every_rabbitmq_takes_the_same_images_and_puts_its_log_in_order_in_the_same_steps():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["configs"]["rabbitmq"]["content"]
    kubernetes = (DEPLOY / "kubernetes" / "base" / "rabbitmq.conf").read_text()
    documented = Path("patchline/packaged/plant/README.md").read_text(), Path("docs/operations.md").read_text()
    for name, value in (
        ("max_message_size", private_servers.MAX_MESSAGE_SIZE),
        ("raft.wal_max_size_bytes", private_servers.WAL_BYTES),
    ):
        assert all(f"{name} = {value}" in text for text in (compose, kubernetes, *documented))


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.ascend"])
def test_hadolint_accepts_the_dockerfile(name):
    result = subprocess.run([str(BIN / "hadolint"), str(DEPLOY / name)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_systemd_accepts_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/patchline/.venv/bin/patchline", str(BIN / "patchline"))
        (tmp_path / unit.name).write_text(text)
    paths = [str(tmp_path / unit.name) for unit in UNITS]
    result = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_of_the_sdk_makes_no_mount_namespace():
    """The Ascend's driver takes a process in a mount namespace of its own for a container."""
    unit = (DEPLOY / "systemd" / "patchline-mindx@.service").read_text()
    options = {line.partition("=")[0] for line in unit.splitlines() if not line.startswith("#")}
    prefixes = ("Private", "Protect", "Bind", "ReadOnly", "ReadWrite", "Inaccessible", "Temporary", "Root", "Mount")
    assert "DeviceAllow" in options
    assert not [option for option in options if option.startswith((*prefixes, "DynamicUser"))]


@pytest.mark.parametrize("file", ["config.compose.yaml", "kubernetes/base/config.yaml"])
def test_a_configuration_can_be_loaded(file):
    assert config.load(DEPLOY / file).broker.make_queues is False


PROCESSES = ("worker", "gate", "publisher", "archive")


def commands():
    """The command line of every container and unit, and its name."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in PROCESSES:
        yield pytest.param(compose[name]["command"], id=f"compose {name}")
    with_mqtt = yaml.safe_load((DEPLOY / "compose.mqtt.yaml").read_text())["services"]
    yield pytest.param(with_mqtt["mqtt"]["command"], id="compose mqtt")
    document = next(yaml.safe_load_all((DEPLOY / "kubernetes" / "overlays" / "mqtt" / "mqtt.yaml").read_text()))
    yield pytest.param(document["spec"]["template"]["spec"]["containers"][0]["args"], id="kubernetes mqtt")
    for name in PROCESSES:
        document = next(yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / f"{name}.yaml").read_text()))
        pod = document["spec"]["template"]["spec"]
        yield pytest.param(pod["containers"][0]["args"], id=f"kubernetes {name}")
    # The first runs without Patchline; the second needs an archive, and is run by tests/console/test_console.py.
    elsewhere = ("patchline-mindx@.service", "patchline-console.service")
    for unit in (unit for unit in UNITS if unit.name not in elsewhere):
        words = re.search(r"bin/patchline (.*?)( \||$)", unit.read_text().replace("\\\n", " "), re.M)[1]
        filled = words.replace("--device %i", "--device cpu:0").replace("%i", "l1")
        filled = filled.replace("${METRICS_PORT}", "9100").replace("${CATEGORY}", "brick")
        filled = filled.replace("${TOPIC}", "cameras/{line}/{category}/{part_id}")
        filled = filled.replace("$TRIGGERS", "--rate 1").replace("${SOURCE}", "simulated:")
        yield pytest.param(filled.split(), id=unit.name)


@pytest.mark.parametrize("words", [*commands()])
def test_the_command_of_a_container_or_unit_runs(words, line, tmp_path):
    (port,) = server.free_ports(1)
    words = [word for word in words if word != "--config" and not word.endswith("config.yaml")]
    words = [str(tmp_path) if word in ("/captured", "${FOLDER}") else word for word in words]
    words = ["cat" if word.startswith("/etc/patchline/gate-") else word for word in words]
    words = ["brick" if word == "solar_cell_mono" else word for word in words]
    words = [str(port) if word in ("9100", "9110", "9113", "9120", "9130", "9140") else word for word in words]
    process = line.start(*words)
    if "--metrics-port" in words:
        wait_for(lambda: server.is_listening(port) or process.poll() is not None)
    else:
        wait_for(lambda: b"connected" in os.read(process.stderr.fileno(), 4096) or process.poll() is not None)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def test_a_worker_notifies_systemd_that_it_is_ready_and_alive(line):
    manager = NotifySocket()
    line.worker("--device", "cpu", NOTIFY_SOCKET=manager.address)
    states = []
    wait_for(lambda: states.extend(manager.read()) or {READY, ALIVE} <= set(states))
    assert states.index(READY) < states.index(ALIVE)
    manager.close()
