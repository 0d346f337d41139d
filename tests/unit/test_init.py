import os

import pytest
import yaml

from patchline import config
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
    for name, folder in settings.paths:
        assert folder.is_dir(), name


def test_the_configuration_explains_every_setting(plant):
    document = yaml.safe_load((plant / "config.yaml").read_text())
    for name, section in config.Config.model_fields.items():
        if name != "categories":
            assert document[name].keys() == section.annotation.model_fields.keys()


def test_deployment_files_have_the_paths_of_the_plant(plant):
    files = [path for path in plant.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"patchline-worker@.service", "patchline.rules.yml", "line.json"}
    for path in files:
        text = path.read_text()
        assert "/opt/patchline" not in text, path
        assert "/etc/patchline" not in text, path
        assert "{plant}" not in text, path
    assert f"--config {plant}/config.yaml" in (plant / "deploy/systemd/patchline-gate@.service").read_text()
    assert "--line press-3 --category gasket" in (plant / "README.md").read_text()
    assert os.access(plant / "gate-press-3.sh", os.X_OK)


def test_a_second_init_overwrites_nothing(plant):
    (plant / "config.yaml").write_text("mine")
    with pytest.raises(SetupError, match="exists already"):
        init.init(plant, "press-3", "gasket")
    assert (plant / "config.yaml").read_text() == "mine"


def test_a_folder_that_unit_files_cannot_name_is_refused(tmp_path):
    with pytest.raises(SetupError, match="without spaces"):
        init.init(tmp_path / "my plant", "press-3", "gasket")
