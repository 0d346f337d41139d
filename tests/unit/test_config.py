import textwrap
from pathlib import Path

import pytest

from inspection import config
from inspection.errors import SetupError

MVTEC = [
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
]
GOOD = """
categories:
  bottle: {backbone: b, layer: l, resize: 256, imagesize: 224}
"""


def load(tmp_path, text):
    path = tmp_path / "line.yaml"
    path.write_text(textwrap.dedent(text))
    return config.load(path)


def fault(tmp_path, text):
    with pytest.raises(SetupError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_the_projects_own_configuration_shows_every_default():
    settings = config.load(Path("config.yaml"))
    assert set(settings.categories) == {*MVTEC, "solar_cell_mono", "solar_cell_poly"}
    for section in ("broker", "redis", "worker", "images", "publisher", "gate"):
        shown = getattr(settings, section)
        assert shown == type(shown)(), section
        assert shown.model_fields_set == set(type(shown).model_fields), section


def test_a_category_alone_is_a_configuration(tmp_path):
    settings = load(tmp_path, GOOD)
    assert settings.category("bottle").coreset_ratio == 0.01
    assert settings.paths.models == tmp_path / "models"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broker:\n  port: 5672\n" + GOOD, "line.yaml:2: broker.port: is not a known setting; known here: url"),
        ("brokers: {}\n" + GOOD, "line.yaml:1: brokers: is not a known setting; known here: broker"),
        ("worker:\n\n  lanes: two\n" + GOOD, "line.yaml:3: worker.lanes: Input should be a valid integer"),
        ("worker:\n  lanes: -1\n" + GOOD, "line.yaml:2: worker.lanes: Input should be greater than or equal to 0"),
        ("redis:\n  timeout_s: .nan\n" + GOOD, "line.yaml:2: redis.timeout_s"),
        ("worker:\n  lanes: true\n" + GOOD, "line.yaml:2: worker.lanes"),
        (
            GOOD + "  can: {layer: l, resize: 64, imagesize: 64}\n",
            "line.yaml:4: categories.can.backbone: Field required",
        ),
        (
            GOOD + "  can: {backbone: b, layer: l, resize: 64, imagesize: 65}\n",
            "categories.can: imagesize 65 is larger",
        ),
        (GOOD + "  can:\n    backbone: b\n    topk: 5\n", "line.yaml:6: categories.can.topk: is not a known setting"),
        (GOOD + "  a/b: {backbone: b, layer: l, resize: 64, imagesize: 64}\n", "line.yaml:4: categories.a/b"),
        (GOOD + "  bottle: {backbone: b, layer: l, resize: 64, imagesize: 64}\n", "line.yaml:4: bottle: stands twice"),
        ("categories: {}\n", "line.yaml:1: categories"),
        ("- a\n", "line.yaml:1: must hold sections"),
        ("", "line.yaml:1: must hold sections"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system ['true']\n" + GOOD, "line.yaml"),
    ],
)
def test_whatever_is_wrong_is_named_with_its_key_and_line(tmp_path, text, message):
    assert message in fault(tmp_path, text)


def test_all_faults_are_told_at_once(tmp_path):
    told = fault(tmp_path, "worker: {lanes: x}\nredis: {urls: y}\n" + GOOD)
    assert len(told.splitlines()) == 2


def test_a_missing_file_says_how_to_name_one(tmp_path):
    with pytest.raises(SetupError, match="--config"):
        config.load(tmp_path / "none.yaml")


def test_the_environment_overrides_the_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHLINE_AMQP_URL", "amqp://somebody:secret@there")
    monkeypatch.setenv("PATCHLINE_REDIS_URL", "")
    settings = load(tmp_path, GOOD)
    assert settings.broker.url == "amqp://somebody:secret@there"
    assert settings.redis.url == ""


def test_a_saved_configuration_is_read_again_without_its_urls(tmp_path):
    settings = config.with_urls(load(tmp_path, GOOD), "amqp://u:secret@h", "redis://:secret@h")
    config.save(settings, tmp_path / "copy.yaml")
    assert "secret" not in (tmp_path / "copy.yaml").read_text()
    assert config.load(tmp_path / "copy.yaml").categories == settings.categories
