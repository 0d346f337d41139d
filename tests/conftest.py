"""Shared fixtures: private servers, texture images, and a small plant with a fitted bank."""

import fcntl
import gc
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import structlog

from patchline import config
from patchline.banks import fit
from patchline.protocol import secret_files
from patchline.services import private_servers, server
from tests import groups
from tests.ports import Ports

TEXTURES = Path(skimage.__file__).parent / "data"
SIDE = 128
CONFIG = """
worker: {drain_s: 20.0, metrics_port: 0}
broker: {max_attempts: 3}
publisher: {deadline_ms: 100000}
images: {max_bytes: 16000000}
redis: {timeout_s: 2.0}
categories:
  brick: {backbone: efficientnet_lite0, layer: blocks4+10, resize: 128, imagesize: 128, coreset_ratio: 0.05,
          false_reject_rate: 0.05, review_rate: 0.1}
"""


@pytest.fixture(autouse=True)
def _no_log_configuration_of_another_test():
    yield
    structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect the tests without the garbage collector, and never have it look at them: they stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Sort the tests: the longest groups first."""
    items.sort(key=lambda item: groups.rank(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each group of files to one process of pytest-xdist."""
    return groups.GroupScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Add what RabbitMQ said to the report of a failure: its folder is deleted with the server."""
    report = yield
    log = getattr(getattr(item, "funcargs", {}).get("servers"), "broker_log", None)
    if report.failed and log is not None and log.exists():  # the last test ends after its servers
        complaints = [line for line in log.read_text().splitlines() if not _HARMLESS.search(line)]
        report.sections.append(("RabbitMQ's log, at the end", "\n".join(complaints[-60:])))
    return report


_HARMLESS = re.compile(r"\[(debug|info)\]")
URLS = ("PATCHLINE_AMQP_URL", "PATCHLINE_REDIS_URL")
# The servers that a developer names for the tests. A test's own environment names none, unless the test sets it.
GIVEN_URLS = {name: url for name in URLS if (url := secret_files.secret(name)) is not None}
for variable in (name + suffix for name in (*URLS, "PATCHLINE_ARCHIVE_URL") for suffix in ("", "_FILE")):
    os.environ.pop(variable, None)


def pytest_configure():
    """Give this process ports of its own."""
    server.candidates = Ports(server.candidates())


def pytest_report_header():
    """Say which servers the tests use."""
    with _given_urls():
        return f"servers: {private_servers.describe()}; the tests delete and create the queues patchline.*"


def _given_urls():
    environment = pytest.MonkeyPatch()
    for name, url in GIVEN_URLS.items():
        environment.setenv(name, url)
    stack = ExitStack()
    stack.callback(environment.undo)
    return stack


def require_servers():
    """Skip a test if servers are not installed; in CI it fails."""
    if missing := private_servers.missing_packages():
        message = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def servers():
    """Private RabbitMQ and Redis, or the servers of PATCHLINE_AMQP_URL and PATCHLINE_REDIS_URL.

    If they are not installed, the tests are skipped; in CI they fail.
    """
    if len(GIVEN_URLS) < len(URLS):
        require_servers()
    with ExitStack() as stack:
        with _given_urls():
            running = stack.enter_context(private_servers.running())
        yield running


def made_once(tmp_path_factory, name, make):
    """Return a folder that is made once for all processes of pytest-xdist, by the first that needs it.

    Args:
        name: name of the folder.
        make: called with the new folder, to fill it. Tests only read there.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, complete = root / name, root / f"{name}.complete"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def texture_folder(tmp_path_factory):
    """A data set in MVTec layout: pieces of a brick wall, some with a drawn scratch."""
    return made_once(tmp_path_factory, "brick", lambda folder: make_textures(folder, "brick.png"))


def make_bank(folder, good, seed=0):
    """Write a configuration with the category `brick`, and its bank of the good images."""
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "models").symlink_to(Path("models").resolve())
    fit.fit(config.load(folder / "config.yaml"), "brick", good, seed)


@pytest.fixture(scope="session")
def plant(tmp_path_factory, texture_folder):
    """A folder with a configuration and a fitted bank of the category `brick`."""
    good = texture_folder / "train" / "good"
    fitted = made_once(tmp_path_factory, "plant", lambda folder: make_bank(folder, good))
    return shutil.copytree(fitted, tmp_path_factory.mktemp("plant") / "plant", symlinks=True)


def make_textures(folder, name, count=40):
    """Write a data set in MVTec layout with pieces of a picture of scikit-image, the last eight with a scratch."""
    texture = cv2.imread(str(TEXTURES / name))
    rng = np.random.default_rng(7)
    for number in range(count):
        y, x = rng.integers(0, 512 - SIDE, 2)
        piece = texture[y : y + SIDE, x : x + SIDE].copy()
        if number < count - 16:
            _write(folder / "train" / "good" / f"{number:03}.png", piece)
        elif number < count - 8:
            _write(folder / "test" / "good" / f"{number:03}.png", piece)
        else:
            mask = np.zeros((SIDE, SIDE), np.uint8)
            start, end = rng.integers(10, 50, 2).tolist(), rng.integers(70, 118, 2).tolist()
            cv2.line(mask, start, end, 255, 3)
            piece[mask > 0] = 255
            _write(folder / "test" / "scratch" / f"{number:03}.png", piece)
            _write(folder / "ground_truth" / "scratch" / f"{number:03}_mask.png", mask)


def _write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
