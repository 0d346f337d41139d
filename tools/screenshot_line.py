"""The line that `tools/screenshots.py` takes pictures of: gravel and bricks, some with a scratch, on real processes.

The textures are those of scikit-image (CC0, from CC0Textures).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np
import skimage

from patchline.services import private_servers, server

LINE, CATEGORIES = "press-3", ("brick", "gravel")
PASSWORD = "a password of nobody"
_SIDE, _GOOD, _PARTS, _PAUSE_S = 160, 48, 24, 0.25
_TIMEOUT_S = 300.0
_RECIPE = (
    "{backbone: efficientnet_lite0, layer: blocks4+10, resize: 256, imagesize: 256, coreset_ratio: 0.05, "
    "false_reject_rate: 0.05, review_rate: 0.1}"
)
_CONFIG = f"""
worker: {{metrics_port: 0}}
publisher: {{deadline_ms: 60000}}
archive: {{batch_ms: 20, pictures: {{decisions: [fail, review, expired, error], min_free_bytes: 0}}}}
banks: {{store: banks}}
console: {{port: %d, defect_kinds: [scratch, hole]}}
categories:
  brick: {_RECIPE}
  gravel: {_RECIPE}
"""


def write_textures(folder: Path) -> None:
    """Write `CATEGORY/good` to learn from, and `CATEGORY/made` to inspect, of which each fourth has a scratch."""
    for number, category in enumerate(CATEGORIES):
        texture = cv2.imread(str(Path(skimage.__file__).parent / "data" / f"{category}.png"), cv2.IMREAD_COLOR)
        assert texture is not None
        rng = np.random.default_rng(number)
        (folder / category / "parts").mkdir(parents=True)
        for kind, count in (("good", _GOOD), ("made", _PARTS)):
            (folder / category / kind).mkdir()
            for part in range(count):
                y, x = (int(rng.integers(0, size - _SIDE)) for size in texture.shape[:2])
                piece = texture[y : y + _SIDE, x : x + _SIDE].copy()
                if kind == "made" and part % 4 == 1:
                    start, end = rng.integers(25, 75, 2).tolist(), rng.integers(85, 135, 2).tolist()
                    cv2.line(piece, start, end, (255, 255, 255), 3, cv2.LINE_AA)
                cv2.imwrite(str(folder / category / kind / f"{category}-{part:03}.png"), piece)


class ScreenshotLine:
    """A plant in a folder. Its processes end with the block that started it."""

    def __init__(self, folder: Path, servers: private_servers.Servers, port: int, stack: ExitStack) -> None:
        self.folder, self.url = folder, f"http://{server.HOST}:{port}"
        self._environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
        self._stack = stack
        (folder / "config.yaml").write_text(_CONFIG % port, encoding="utf-8")
        (folder / "password").write_text(PASSWORD + "\n", encoding="utf-8")

    def run(self, *words: str) -> str:
        """Run a command to its end, and return what it prints."""
        command = [sys.executable, "-m", "patchline", *words, "--config", str(self.folder / "config.yaml")]
        environment = os.environ | self._environment
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def start(self, *words: str, probe: str = "") -> None:
        """Start a process. Wait until it is ready, or until `probe` answers."""
        (port,) = server.free_ports(1)
        options = [] if probe else ["--metrics-port", str(port)]
        config = ["--config", str(self.folder / "config.yaml")]
        log = self._stack.enter_context((self.folder / f"{words[0]}.log").open("ab"))
        command = [sys.executable, "-m", "patchline", *words, *options, *config]
        self._stack.callback(server.stop_guarded, server.start_guarded(command, log, log, self._environment))
        probe = probe or f"http://{server.HOST}:{port}/readyz"
        deadline = time.monotonic() + _TIMEOUT_S
        while not server.responds(probe):
            if time.monotonic() > deadline:
                raise server.ServiceError(f"{words[0]} does not answer; see {self.folder}")
            time.sleep(0.2)

    def good_pictures(self, category: str) -> list[Path]:
        """The files that the bank of a category was made of."""
        return sorted((self.folder / category / "good").iterdir())

    def own_pictures(self, category: str) -> list[Path]:
        """Two of the parts that have come: a good one, and one with a scratch."""
        return sorted((self.folder / category / "parts").iterdir())[:2]

    def make(self, category: str) -> None:
        """Let the parts of a category come, a few a second, into the folder that its publisher watches."""
        for image in sorted((self.folder / category / "made").iterdir()):
            os.utime(image)  # it is captured now, and not when it was drawn
            image.rename(self.folder / category / "parts" / image.name)
            time.sleep(_PAUSE_S)


@contextmanager
def running(folder: Path) -> Iterator[ScreenshotLine]:
    """Fit the banks and start the line in a folder: archive, gate, console and worker, and people with accounts."""
    write_textures(folder)
    (port,) = server.free_ports(1)
    with private_servers.running() as servers, ExitStack() as stack:
        line = ScreenshotLine(folder, servers, port, stack)
        line.run("banks", "init")
        for category in CATEGORIES:
            line.run("fit", "--category", category, str(folder / category / "good"))
            said = line.run("banks", "publish", category, "--why", f"{_GOOD} images of week 47")
            (version,) = set(re.findall(r"\b[0-9a-f]{12}\b", said))
            line.run("banks", "activate", category, version, "--why", "start of the line")
        for name, role in (("anna", "review"), ("erik", "engineer"), ("mei", "admin")):
            words = ("--role", role, "--password-file", str(folder / "password"))
            line.run("console", "users", "add", name, *words)
        line.start("archive")
        handed_in = folder / "handed-in"
        (handed_in / LINE).mkdir(parents=True)
        line.start("console", "--hand-in", str(handed_in), probe=f"{line.url}/healthz")
        line.start("worker", "--device", "cpu")
        line.start("gate", "--line", LINE, "--exec", "cat")
        for category in CATEGORIES:
            line.start("publish", "--line", LINE, "--category", category, "--watch", str(folder / category / "parts"))
        line.start("publish", "--line", LINE, "--watch", "--hand-in", str(handed_in))
        yield line
