"""What a process has loaded costs no pause later."""

import gc
import weakref

import pytest

from patchline.runtime import garbage


class Node:
    """An object that refers to itself, so that only the collector can delete it."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def unfrozen():
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unfrozen")
def test_what_was_loaded_is_left_alone_and_what_comes_later_is_still_collected():
    loaded = Node()
    garbage.settle()
    assert gc.get_freeze_count() > 10_000
    assert not any(known is loaded for known in gc.get_objects())
    later = Node()
    reference = weakref.ref(later)
    del later
    gc.collect()
    assert reference() is None
