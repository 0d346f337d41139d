"""Loading many categories: in parallel, each on its own. The banks themselves are loaded in tests/system."""

import threading

import pytest

from patchline import config
from patchline.banks import serving
from patchline.devices import backbone
from patchline.protocol.errors import SetupError

TIMEOUT_S = 15.0


@pytest.fixture
def loader():
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    settings = config.Config.model_validate({"categories": {"c": category}})
    return serving.Loader(settings, backbone.CPU, streams=1)


def test_a_category_that_cannot_be_loaded_stops_no_other(loader, monkeypatch):
    def load(name):
        if name == "bad":
            raise SetupError("damaged")
        return f"inspector of {name}"

    progress = []
    monkeypatch.setattr(loader, "load", load)
    loaded = loader.load_all(["a", "bad", "c"], threading.Event(), 2, lambda: progress.append(1))
    assert loaded.inspectors == {"a": "inspector of a", "c": "inspector of c"}
    assert {name: str(error) for name, error in loaded.errors.items()} == {"bad": "damaged"}
    assert len(progress) == 3


@pytest.mark.timeout(60)
def test_categories_are_loaded_at_the_same_time(loader, monkeypatch):
    both = threading.Barrier(2, timeout=TIMEOUT_S)
    monkeypatch.setattr(loader, "load", lambda name: both.wait() is not None and name)
    assert set(loader.load_all(["a", "b"], threading.Event(), 2).inspectors) == {"a", "b"}


@pytest.mark.timeout(60)
def test_the_loading_ends_when_the_worker_is_stopped(loader, monkeypatch):
    stop, begun = threading.Event(), []

    def load(name):
        begun.append(name)
        stop.set()
        return name

    monkeypatch.setattr(loader, "load", load)
    assert loader.load_all([str(number) for number in range(100)], stop).inspectors == {"0": "0"}
    assert begun == ["0"]
