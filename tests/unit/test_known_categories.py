"""A misspelt category is refused before its queue is made; one that only the store has is known."""

import json
import shutil
import threading

import pytest
from typer.testing import CliRunner

from patchline import config
from patchline.banks import known_categories, opening, store
from patchline.cli import line, main
from patchline.protocol.errors import SetupError
from tests.own_logs import capture_own_logs

VERSION = "1" * 64
RECIPE = {"backbone": "net", "layer": "layer3", "resize": 256, "imagesize": 224}
UNKNOWN = r"category 'sael' is unknown: neither the configuration nor \S+/store has it; known: brick, seal; .*--new-cat"


@pytest.fixture
def plant(tmp_path):
    """The file of a configuration of `brick`, whose store also has `seal`. No version is active."""
    file = tmp_path / "config.yaml"
    banks = {"store": str(tmp_path / "store"), "new_categories_like": "brick"}
    file.write_text(json.dumps({"banks": banks, "categories": {"brick": RECIPE}}))
    versions = opening.versions(config.load(file))
    versions.make()
    files = {store.MANIFEST_FILE: VERSION}
    versions._record("seal", versions.state("seal"), "publish", VERSION, "anna", "taught in the console", files)
    return file


@pytest.fixture
def settings(plant):
    return config.load(plant)


@pytest.mark.parametrize(
    "command",
    [
        ["publish", "--category", "sael", "captured"],
        ["publish", "--category", "sael", "--watch", "captured"],
        ["camera", "--category", "sael", "--rate", "1", "simulated:"],
        ["camera", "--category", "sael", "mqtt:cams/{part_id}"],
    ],
)
def test_a_category_that_nobody_knows_is_refused_with_the_known_ones(plant, command):
    result = CliRunner().invoke(main.app, [*command, "--line", "l1", "--config", str(plant)])
    assert isinstance(result.exception, SetupError)
    assert result.exception.exit_code == 2
    with pytest.raises(SetupError, match=UNKNOWN):
        raise result.exception


def test_categories_of_the_configuration_and_of_the_store_are_taken(settings):
    assert known_categories.names(settings, opening.versions(settings)) == ["brick", "seal"]
    for name in ("brick", "seal"):
        line.require_known(settings, name, is_new=False)


def test_a_new_category_is_taken_if_one_means_it(settings):
    line.require_known(settings, "sael", is_new=True)
    line.require_known(settings, None, is_new=False)
    with pytest.raises(SetupError, match="--new-category is about --category"):
        line._pattern(settings, None, "{category}/*", hand_in=False, is_new=True, watch=True, paths=[1])


def test_a_new_category_needs_a_recipe_all_the_same(plant):
    settings = config.load(plant)
    bare = settings.model_copy(update={"banks": config.Banks()})
    with pytest.raises(SetupError, match="'sael' is not configured"):
        line.require_known(bare, "sael", is_new=True)


def test_a_store_that_is_away_keeps_no_publisher_from_starting(settings):
    shutil.rmtree(settings.banks.store)
    with capture_own_logs() as logs:
        known_categories.require(settings, "sael")
    assert [(log["log_level"], log["category"]) for log in logs] == [("warning", "sael")]
    assert "is not mounted" in logs[0]["reason"]


def test_a_store_that_never_answers_holds_no_publisher(settings, monkeypatch):
    answers = threading.Event()

    def versions(_):
        answers.wait()
        raise SetupError("too late")

    monkeypatch.setattr(opening, "versions", versions)
    monkeypatch.setattr(known_categories, "_PATIENCE_S", 0.01)
    try:
        with capture_own_logs() as logs:
            known_categories.require(settings, "sael")
        assert "has not answered" in logs[0]["reason"]
    finally:
        answers.set()
