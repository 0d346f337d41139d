import math
import textwrap
from pathlib import Path

import pytest

from patchline import config
from patchline.protocol.errors import SetupError
from patchline.protocol.tls import Certificates

# The good images of training in MVTec AD, and the rows of the reference's memory banks.
MVTEC = {
    "bottle": (209, 1638),
    "cable": (224, 896),
    "capsule": (219, 3504),
    "carpet": (280, 4480),
    "grid": (264, 4224),
    "hazelnut": (391, 2758),
    "leather": (245, 1920),
    "metal_nut": (220, 3449),
    "pill": (267, 2943),
    "screw": (320, 5120),
    "tile": (230, 3680),
    "toothbrush": (60, 470),
    "transistor": (213, 852),
    "wood": (247, 1936),
    "zipper": (240, 1881),
}
GOOD = """
categories:
  bottle: {backbone: b, layer: l, resize: 256, imagesize: 224}
"""


def load(tmp_path, text):
    path = tmp_path / "line.yaml"
    path.write_text(textwrap.dedent(text))
    return config.load(path)


def load_error(tmp_path, text):
    with pytest.raises(SetupError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_config_yaml_shows_every_setting_with_its_default():
    settings = config.load(Path("config.yaml"))
    assert set(settings.categories) == {*MVTEC, "solar_cell_mono", "solar_cell_poly"}
    for section in ("broker", "redis", "worker", "images", "publisher", "gate", "plc", "camera", "archive", "banks"):
        shown = getattr(settings, section)
        assert shown == type(shown)(), section
        assert shown.model_fields_set == set(type(shown).model_fields), section
    shown = settings.console.model_copy(update={"database": config.Console().database})
    assert shown == config.Console()
    assert shown.model_fields_set == set(config.Console.model_fields)


def test_the_files_of_the_console_are_relative_to_the_configuration(tmp_path):
    text = GOOD + "console: {database: here/c.sqlite, cert_file: c.pem, key_file: /etc/c.key}\n"
    console = load(tmp_path, text).console
    assert (console.database, console.cert_file) == (tmp_path / "here/c.sqlite", tmp_path / "c.pem")
    assert str(console.key_file) == "/etc/c.key"
    assert console.uses_https


@pytest.mark.parametrize("name", MVTEC)
def test_a_bank_of_an_mvtec_category_has_as_many_rows_as_the_reference_s(name):
    good_images, rows = MVTEC[name]
    category = config.load(Path("config.yaml")).category(name)
    stride = 16 if category.layer == "layer3" else 8
    patches = min((category.imagesize // stride) ** 2, category.max_patches // good_images)
    assert math.floor(good_images * patches * category.coreset_ratio) == rows


def test_a_category_that_is_not_named_has_the_recipe_of_another_one_if_the_store_may_have_it(tmp_path):
    settings = load(tmp_path, "banks: {store: b, new_categories_like: bottle}\n" + GOOD)
    assert settings.category("new") == settings.category("bottle") == settings.categories["bottle"]
    settings = load(tmp_path, "banks: {store: b}\n" + GOOD)
    with pytest.raises(SetupError, match=r"'new' is not configured; known: bottle; .* banks.new_categories_like"):
        settings.category("new")


def test_a_configuration_needs_only_a_category(tmp_path):
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
        (GOOD + "  bottle: {backbone: b, layer: l, resize: 64, imagesize: 64}\n", "line.yaml:4: bottle: duplicate key"),
        (
            "archive:\n  pictures:\n    stored: x\n" + GOOD,
            "line.yaml:3: archive.pictures.stored: is not a known setting",
        ),
        ("archive:\n  pictures: {decisions: [pass]}\n" + GOOD, "line.yaml:2: archive.pictures.decisions"),
        ("archive:\n  pictures: {store: s3:/x}\n" + GOOD, "archive.pictures.store: must be s3://BUCKET"),
        ("banks: {store: s3:/x}\n" + GOOD, "line.yaml:1: banks.store: must be a folder, s3://BUCKET or"),
        ("banks: {store: 'https://h/b'}\n" + GOOD, "line.yaml:1: banks.store: must be a folder, s3://BUCKET or"),
        (
            "console:\n  oidc: {issuer: 'https://s', client_id: p, console_url: 'https://c', role: {}}\n" + GOOD,
            "line.yaml:2: console.oidc.role: is not a known setting; known here: issuer, client_id",
        ),
        (
            "archive:\n  pictures:\n    keep_days: {failed: 3.0}\n" + GOOD,
            "line.yaml:3: archive.pictures.keep_days.failed: Input should be 'pass', 'review'",
        ),
        (
            "camera:\n  lines:\n    press-3: {lines: 3}\n" + GOOD,
            "line.yaml:3: camera.lines.press-3.lines: is not a known setting; known here: frame_timeout_ms",
        ),
        (
            "console:\n  teach:\n    days: 3\n" + GOOD,
            "line.yaml:3: console.teach.days: is not a known setting; known here: max_pictures, max_bytes, keep_days",
        ),
        ("banks: {endpoint: 'h:9000'}\n" + GOOD, "line.yaml:1: banks.endpoint: must be https://HOST"),
        (
            "archive:\n  pictures: {endpoint: 'https://u:p@h'}\n" + GOOD,
            "archive.pictures.endpoint: must be https://HOST",
        ),
        ("archive:\n  pictures: {keep_days: {fial: 1.0}}\n" + GOOD, "line.yaml:2: archive.pictures.keep_days"),
        ("categories: {}\n", "line.yaml:1: categories"),
        ("- a\n", "line.yaml:1: must contain sections"),
        ("", "line.yaml:1: must contain sections"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n" + GOOD, "line.yaml"),
    ],
)
def test_an_error_names_the_key_and_the_line(tmp_path, text, message):
    assert message in load_error(tmp_path, text)


def test_all_errors_are_reported_together(tmp_path):
    errors = load_error(tmp_path, "worker: {lanes: x}\nredis: {urls: y}\n" + GOOD)
    assert len(errors.splitlines()) == 2


def test_the_error_about_a_missing_file_mentions_the_option(tmp_path):
    with pytest.raises(SetupError, match="--config"):
        config.load(tmp_path / "none.yaml")


def test_the_environment_overrides_the_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHLINE_AMQP_URL", "amqp://somebody:secret@there")
    monkeypatch.setenv("PATCHLINE_REDIS_URL", "")
    settings = load(tmp_path, GOOD)
    assert settings.broker.url == "amqp://somebody:secret@there"
    assert settings.redis.url == ""


def test_a_saved_configuration_can_be_loaded_and_has_no_urls(tmp_path):
    settings = config.with_urls(load(tmp_path, GOOD), "amqp://u:secret@h", "redis://:secret@h")
    config.save(settings, tmp_path / "copy.yaml")
    assert "secret" not in (tmp_path / "copy.yaml").read_text()
    assert config.load(tmp_path / "copy.yaml").categories == settings.categories


def test_days_of_one_decision_leave_those_of_the_others_and_are_saved(tmp_path):
    text = "archive: {pictures: {decisions: [fail, review], keep_days: {pass: null, fail: 7.5}}}\n"
    pictures = load(tmp_path, text + GOOD).archive.pictures
    assert pictures.keep_days == {"pass": None, "review": 365.0, "fail": 7.5, "expired": 365.0, "error": 365.0}
    assert pictures.sent
    assert not config.Pictures().sent
    config.save(load(tmp_path, text + GOOD), tmp_path / "copy.yaml")
    assert config.load(tmp_path / "copy.yaml").archive.pictures == pictures


def test_a_url_can_be_read_from_a_file_named_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "url").write_text("amqp://somebody:secret@there\n")
    monkeypatch.setenv("PATCHLINE_AMQP_URL_FILE", str(tmp_path / "url"))
    assert load(tmp_path, GOOD).broker.url == "amqp://somebody:secret@there"
    monkeypatch.setenv("PATCHLINE_AMQP_URL", "amqp://elsewhere")
    with pytest.raises(SetupError, match="both set"):
        load(tmp_path, GOOD)
    monkeypatch.delenv("PATCHLINE_AMQP_URL")
    monkeypatch.setenv("PATCHLINE_AMQP_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(SetupError, match=r"missing, named by PATCHLINE_AMQP_URL_FILE: cannot be read"):
        load(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broker: {url: 'amqp://u:hunter2@h'}", "broker.url: contains a password"),
        ("broker: {url: 'amqp://h,amqp://u:hunter2@h'}", "broker.url: contains a password"),
        ("redis: {url: 'redis://:hunter2@h'}", "redis.url: contains a password"),
        ("console: {cert_file: c.pem}", "console: cert_file and key_file go together"),
        ("console: {prefix: plant}", "console.prefix: String should match"),
        ("console: {prefix: /plant/}", "console.prefix: String should match"),
        ("console: {language: fr}", "console.language: Input should be 'en', 'de' or 'zh'"),
        ("console: {defect_kinds: ['a b']}", "console.defect_kinds.0: String should match"),
        ("worker: {stuck_s: 20.0}", "worker.stuck_s: 20.0 is not above broker.confirm_timeout_s 30.0"),
        ("worker: {concurrency: 4, lanes: 2}", "worker.concurrency: 4 is above worker.lanes 2"),
        ("camera: {stuck_s: 5.0, frame_timeout_ms: 5000}", "camera: stuck_s 5 is not above frame_timeout_ms 5000"),
        ("camera: {latency_ms: 250}", "camera: latency_ms 250 is not below frame_timeout_ms 250"),
        ("camera: {gain: 1.0, features: {GainRaw: 3}}", "camera: features sets GainRaw, and gain sets it again"),
        ("camera: {stuck_s: 9.0, lines: {l: {frame_timeout_ms: 9500}}}", "camera.lines.l: stuck_s 9 is not above"),
    ],
)
def test_passwords_and_contradictory_settings_are_refused(tmp_path, text, message):
    with pytest.raises(SetupError, match=message) as caught:
        load(tmp_path, f"{text}\n{GOOD}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("redis: {}\nworker:\n  stuck_s: 20.0", ":3: worker.stuck_s: 20.0 is not above"),
        ("plc:\n  slots: 8\n  categories: {x: 1}", ":3: plc.categories: names 'x'"),
        ("banks:\n  store: b\n  new_categories_like: x", ":3: banks.new_categories_like: names 'x', which is not a"),
        ("banks:\n  new_categories_like: bottle", ":2: banks.new_categories_like: needs banks.store"),
        ("plc:\n  lines:\n    l: {arm: 1, window: 2}", ":3: plc.lines.l: window 2 is longer than the way"),
        ("plc:\n  lines:\n    l:\n      arn: 2", ":4: plc.lines.l.arn: is not a known setting; known here: unit, arm"),
        ("plc:\n  lines:\n    l:\n      slots: 1", ":4: plc.lines.l.slots: Input should be greater"),
    ],
)
def test_an_error_about_several_keys_names_one_of_them_and_its_line(tmp_path, text, message):
    assert message in load_error(tmp_path, f"{text}\n{GOOD}")


@pytest.mark.parametrize("name", ["../escape", "a/b", "/etc/passwd", ".hidden"])
def test_a_backbone_name_with_a_path_is_refused(tmp_path, name):
    with pytest.raises(SetupError, match="backbone"):
        load(tmp_path, GOOD.replace("backbone: b", f"backbone: '{name}'"))


def test_ca_files_are_relative_to_the_configuration(tmp_path):
    settings = load(tmp_path, f"broker: {{ca_file: ca.pem, cert_file: c.pem, key_file: /etc/key.pem}}\n{GOOD}")
    assert settings.broker.ca_file == tmp_path / "ca.pem"
    assert settings.broker.certificates == Certificates(tmp_path / "ca.pem", tmp_path / "c.pem", Path("/etc/key.pem"))
    assert settings.redis.ca_file is None


@pytest.mark.parametrize("store", ["banks", "s3://plant/banks", "null"])
def test_a_child_that_reads_the_configuration_as_json_has_the_same_store_of_banks(tmp_path, store):
    settings = load(tmp_path, f"banks: {{store: {store}}}\n" + GOOD)
    assert config.Config.model_validate_json(settings.model_dump_json()).banks.store == settings.banks.store
