"""10,000 pictures by MQTT, over two restarts of RabbitMQ; part of `make soak`. Writes out/mqtt-*.json."""

import json
from pathlib import Path

import pytest

from tests.system.mqtt_brokers import RabbitMq
from tests.system.mqtt_line import assert_none_lost, mqtt_line, run_over_restarts, version

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
PICTURES, PER_SECOND = 10_000, 50
RESTARTS = [(0.33, False), (0.66, True)]  # after a share of the pictures; by SIGTERM, and by SIGKILL
PATIENT = "gate: {max_wait_ms: 3600000}\n"  # a busy machine judges them later


@pytest.mark.parametrize("v5", [False, True], ids=["MQTT 3.1.1", "MQTT 5"])
def test_no_picture_is_lost_over_two_restarts_and_each_is_acted_on_once(plant, servers, texture_folder, tmp_path, v5):
    images = [path.read_bytes() for path in sorted((texture_folder / "test").glob("*/*.png"))]
    broker = RabbitMq(tmp_path / "rabbitmq")
    try:
        found = version(broker.node.url)
        if v5 and found < (3, 13):
            pytest.skip("this RabbitMQ does not speak MQTT 5")
        with mqtt_line(plant, tmp_path / "line", broker, servers.redis_url, PATIENT) as line:
            result = run_over_restarts(line, images, PICTURES, PER_SECOND, RESTARTS, v5)
    finally:
        broker.stop()
    Path("out").mkdir(exist_ok=True)
    file = Path(f"out/mqtt-{found[0]}.{found[1]}-{'5' if v5 else '3.1.1'}.json")
    file.write_text(json.dumps(result, indent=2) + "\n")
    assert_none_lost(result)
