"""The images of ordinary cameras pass the publisher, RabbitMQ and the worker with the limits that are shipped."""

import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml

from patchline import config
from patchline.protocol.messages import Decision
from patchline.services import private_servers
from tests import pictures
from tests.system.conftest import Line, records

pytestmark = pytest.mark.timeout(180)
RNG = np.random.default_rng(0)


def configured_sizes():
    """The limit of each RabbitMQ configuration that is shipped, by its file."""
    compose = yaml.safe_load(Path("deploy/compose.yaml").read_text())["configs"]["rabbitmq"]["content"]
    cluster = Path("deploy/kubernetes/base/rabbitmq.conf").read_text()
    page = Path("docs/operations.md").read_text()
    texts = {"compose.yaml": compose, "kubernetes": cluster, "operations.md": page}
    sizes = {name: re.findall(r"^\s*max_message_size = (\d+)$", text, re.MULTILINE) for name, text in texts.items()}
    return {name: [int(size) for size in found] for name, found in sizes.items()}


def test_every_shipped_rabbitmq_takes_the_largest_image_of_the_default_limits():
    for name, sizes in configured_sizes().items():
        assert sizes == [private_servers.MAX_MESSAGE_SIZE], name
    assert config.Images().max_bytes <= private_servers.MAX_MESSAGE_SIZE


def test_large_images_get_their_verdicts_with_the_default_limits(plant, servers, tmp_path):
    pixels = RNG.integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    deep = RNG.integers(0, 65536, (3648, 5472), dtype=np.uint16)
    (tmp_path / "part-1.bmp").write_bytes(pictures.bmp(pixels, (4000, 3000), 24))
    (tmp_path / "part-2.tiff").write_bytes(pictures.tiff(deep))
    settings = config.load(plant / "config.yaml").model_copy(update={"images": config.Images()})
    config.save(settings, tmp_path / "config.yaml")
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        addresses = private_servers.Servers(node.url, servers.redis_url, None, None)
        with private_servers.start_all([node.server]), ExitStack() as stack:
            line = Line(tmp_path, addresses, stack)
            line.worker("--device", "cpu")
            images = [str(tmp_path / name) for name in ("part-1.bmp", "part-2.tiff")]
            published = line.run("publish", "--line", "l1", "--category", "brick", *images)
            assert {state["state"] for state in records(published.out)} == {"confirmed"}, published.err
            verdicts = {verdict.part_id: verdict for verdict in line.verdicts(2)}
            assert verdicts.keys() == {"part-1", "part-2"}
            assert {verdict.decision for verdict in verdicts.values()} <= {
                Decision.FAIL,
                Decision.REVIEW,
                Decision.PASS,
            }
