import os

import pytest
import yaml

from patchline import config
from patchline.banks import opening
from patchline.operations import init
from patchline.protocol.errors import SetupError


@pytest.fixture
def plant(tmp_path):
    init.init(tmp_path / "plant", "press-3", "gasket")
    return tmp_path / "plant"


def test_the_written_configuration_has_the_defaults_and_one_category(plant):
    settings, packaged = config.load(plant / "config.yaml"), config.load(config.PACKAGED)
    assert list(settings.categories) == ["gasket"]
    for section in ("broker", "redis", "worker", "images", "publisher", "gate"):
        assert getattr(settings, section) == getattr(packaged, section)
    kept = packaged.archive.pictures.model_copy(update={"decisions": ("fail", "review", "expired", "error")})
    assert settings.archive == packaged.archive.model_copy(update={"pictures": kept})
    for name, folder in settings.paths:
        assert folder.is_dir(), name
    assert settings.banks.new_categories_like == "gasket"
    assert opening.versions(settings).categories() == []  # a store that is none would be an error


def test_the_configuration_explains_every_setting(plant):
    document = yaml.safe_load((plant / "config.yaml").read_text())
    for name, section in config.Config.model_fields.items():
        if name != "categories":
            assert document[name].keys() == section.annotation.model_fields.keys()


def test_deployment_files_have_the_paths_of_the_plant(plant):
    files = [path for path in plant.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        *(f"patchline-{name}@.service" for name in ("worker", "camera", "mqtt")),
        *("patchline.rules.yml", "line.json"),
    }
    for path in files:
        text = path.read_text()
        assert "/opt/patchline" not in text, path
        assert "/etc/patchline" not in text, path
        assert "/srv/patchline" not in text, path
        assert "{plant}" not in text, path
    assert f"--config {plant}/config.yaml" in (plant / "deploy/systemd/patchline-gate@.service").read_text()
    assert "--line press-3 --category gasket" in (plant / "README.md").read_text()
    assert os.access(plant / "gate-press-3.sh", os.X_OK)


def test_a_publisher_has_a_metrics_port_that_its_instance_can_set(plant):
    unit = (plant / "deploy/systemd/patchline-publisher@.service").read_text()
    assert "--metrics-port ${METRICS_PORT} " in unit
    assert unit.index("Environment=METRICS_PORT=9110") < unit.index(f"EnvironmentFile={plant}/publisher-%i.env")
    assert "METRICS_PORT=9110" in (plant / "publisher-press-3.env").read_text().splitlines()


def test_a_second_init_of_a_line_overwrites_nothing(plant):
    (plant / "gate-press-3.sh").write_text("mine")
    with pytest.raises(SetupError, match="exists already"):
        init.init(plant, "press-3", "gasket")
    assert (plant / "gate-press-3.sh").read_text() == "mine"


def test_a_second_line_is_added_to_the_plant(plant):
    before = (plant / "config.yaml").read_text()
    files = init.init(plant, "press-4", "gasket")
    assert {path.name for path in files} == {"publisher-press-4.env", "gate-press-4.sh", "gate-press-4.env"}
    settings = (plant / "publisher-press-4.env").read_text().splitlines()
    assert settings == ["CATEGORY=gasket", f"FOLDER={plant}/captured-press-4", "METRICS_PORT=9111"]
    assert (plant / "captured-press-4").is_dir()
    assert (plant / "gate-press-4.env").read_text() == "METRICS_PORT=9121\n"
    assert (plant / "config.yaml").read_text() == before


def test_a_second_line_may_have_a_category_that_people_will_teach(plant):
    init.init(plant, "press-4", "seal")
    assert "CATEGORY=seal" in (plant / "publisher-press-4.env").read_text().splitlines()


def test_a_second_line_of_a_category_that_the_plant_does_not_know_is_refused(plant):
    text = (plant / "config.yaml").read_text()
    (plant / "config.yaml").write_text(text.replace('new_categories_like: "gasket"', "new_categories_like: null"))
    with pytest.raises(SetupError, match="'seal' is not configured; known: gasket"):
        init.init(plant, "press-4", "seal")
    assert not (plant / "publisher-press-4.env").exists()


@pytest.mark.parametrize("name", ["my plant", "50%", "a'b", 'a"b', "a&b", "a$HOME", "pa(r)en", "{line}", "ü"])
def test_a_folder_that_units_and_shells_cannot_name_is_refused(tmp_path, name):
    with pytest.raises(SetupError, match="name another folder"):
        init.init(tmp_path / name, "press-3", "gasket")


@pytest.mark.parametrize("category", ["4711", "2024-01-15", "on", "null", "1_0"])
def test_a_category_may_look_like_another_kind_of_value(tmp_path, category):
    init.init(tmp_path / "plant", "press-3", category)
    assert list(config.load(tmp_path / "plant" / "config.yaml").categories) == [category]


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path):
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "config.yaml").symlink_to(tmp_path / "outside.yaml")
    with pytest.raises(SetupError, match="exists already"):
        init.init(tmp_path / "plant", "press-3", "gasket")
    assert not (tmp_path / "outside.yaml").exists()


def test_an_init_that_fails_half_way_can_be_repeated(tmp_path):
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "deploy").write_text("in the way")
    with pytest.raises(SetupError, match="cannot be written"):
        init.init(tmp_path / "plant", "press-3", "gasket")
    (tmp_path / "plant" / "deploy").unlink()
    init.init(tmp_path / "plant", "press-3", "gasket")


def test_a_loop_of_links_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SetupError, match="cannot be written"):
        init.init(tmp_path / "loop" / "plant", "press-3", "gasket")
