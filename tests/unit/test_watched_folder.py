"""The states of images in a watched folder: no file, no clock, no wait."""

import pytest

from patchline.publisher.watched_folder import Signature, State, WatchedFolder

REST, LONG_REST, OPEN_REST = 0.3, 3.0, 2.0


def signature(size=10, inode=1, mtime=1, ctime=1):
    return Signature(inode, size, mtime, ctime)


@pytest.fixture
def folder():
    return WatchedFolder(REST, LONG_REST, OPEN_REST, {"old.png": signature()})


def test_an_image_arrives_rests_is_complete_and_is_taken(folder):
    folder.arrive("a.png", 0.0, closed=False)
    states = [folder.state("a.png")]
    folder.observe("a.png", signature(), 0.0)
    states.append(folder.state("a.png"))
    folder.observe("a.png", signature(), REST)
    states.append(folder.state("a.png"))
    folder.take("a.png", signature())
    assert [*states, folder.state("a.png")] == [State.ARRIVED, State.RESTING, State.COMPLETE, State.TAKEN]
    assert folder.state("other.png") is None


def test_an_image_that_its_writer_closed_is_complete_at_once(folder):
    folder.arrive("a.png", 5.0, closed=True)
    assert folder.due(5.0) == ["a.png"]
    folder.observe("a.png", signature(), 5.0)
    assert folder.complete() == {"a.png": signature()}


def test_a_preallocated_image_whose_writer_pauses_is_not_complete_before_its_close(folder):
    folder.arrive("a.bmp", 0.0, closed=False, written=True)
    folder.observe("a.bmp", signature(), 0.0)
    folder.observe("a.bmp", signature(mtime=2), 1.0)  # of full size from the start, written piece by piece
    folder.observe("a.bmp", signature(mtime=2), 1.0 + OPEN_REST - 0.1)
    assert folder.state("a.bmp") is State.RESTING
    folder.arrive("a.bmp", 3.0, closed=True)
    folder.observe("a.bmp", signature(mtime=2), 3.0)
    assert folder.state("a.bmp") is State.COMPLETE


def test_an_image_that_is_opened_and_written_again_is_not_complete_before_its_second_close(folder):
    folder.arrive("a.bmp", 0.0, closed=True)
    folder.arrive("a.bmp", 0.0, written=True)  # both events are read at once
    folder.observe("a.bmp", signature(), 0.0)
    folder.observe("a.bmp", signature(), REST)
    assert folder.state("a.bmp") is State.RESTING
    folder.arrive("a.bmp", 1.0, closed=True)
    folder.observe("a.bmp", signature(), 1.0)
    assert folder.state("a.bmp") is State.COMPLETE


def test_an_image_that_a_listing_finds_before_its_first_event_rests_as_an_open_one(folder):
    folder.observe("a.bmp", signature(), 0.0)
    folder.arrive("a.bmp", 0.1, written=True)
    folder.observe("a.bmp", signature(), 0.1)
    folder.observe("a.bmp", signature(), OPEN_REST - 0.1)
    assert folder.state("a.bmp") is State.RESTING


def test_the_content_of_an_image_is_new_until_it_is_taken_if_it_was_written_or_moved_in(folder):
    for events, new in (({"written": True}, True), ({"moved": True}, True), ({"closed": True}, False)):
        folder.arrive("a.png", 0.0, **events)
        folder.observe("a.png", signature(), 0.0)
        assert folder.is_new_content("a.png") is new
        folder.take("a.png", signature())


def test_an_image_that_its_writer_never_closes_is_complete_in_the_end(folder):
    folder.arrive("a.bmp", 0.0, closed=False, written=True)
    folder.observe("a.bmp", signature(), 0.0)
    folder.observe("a.bmp", signature(), OPEN_REST)
    assert folder.state("a.bmp") is State.COMPLETE


def test_an_image_that_was_closed_and_changes_again_rests_for_the_usual_time(folder):
    folder.arrive("a.bmp", 0.0, closed=False, written=True)
    folder.arrive("a.bmp", 1.0, closed=True)
    folder.observe("a.bmp", signature(), 1.0)
    folder.take("a.bmp", signature())
    folder.observe("a.bmp", signature(mtime=2), 5.0)
    folder.observe("a.bmp", signature(mtime=2), 5.0 + REST)
    assert folder.state("a.bmp") is State.COMPLETE


def test_an_image_that_changes_rests_again(folder):
    for number in range(5):
        folder.observe("a.png", signature(size=number), number * 0.2)
        assert folder.state("a.png") is State.RESTING
    folder.observe("a.png", signature(size=4), 0.8 + REST)
    assert folder.state("a.png") is State.COMPLETE


def test_a_batch_rests_together(folder):
    for number in range(100):
        folder.observe(f"{number}.png", signature(), 1.0)
    assert folder.next_due() == 1.0 + REST
    assert len(folder.due(1.0 + REST)) == 100
    for path in folder.due(1.0 + REST):
        folder.observe(path, signature(), 1.0 + REST)
    assert len(folder.complete()) == 100


def test_an_image_that_never_rests_holds_up_no_other(folder):
    folder.observe("rested.png", signature(), 0.0)
    for number in range(10):
        folder.observe("growing.png", signature(size=number), number * 0.1)
    folder.observe("rested.png", signature(), REST)
    assert list(folder.complete()) == ["rested.png"]


def test_an_image_without_its_end_rests_longer_once(folder):
    folder.arrive("half.png", 0.0, closed=True)
    folder.observe("half.png", signature(), 0.0)
    assert not folder.has_rested_as_incomplete("half.png")
    folder.rest_as_incomplete("half.png", 0.0, LONG_REST)
    folder.observe("half.png", signature(), LONG_REST - 0.1)
    assert folder.state("half.png") is State.RESTING
    folder.observe("half.png", signature(), LONG_REST)
    assert folder.state("half.png") is State.COMPLETE
    assert folder.has_rested_as_incomplete("half.png")


def test_an_image_whose_end_arrives_does_not_rest_longer(folder):
    folder.observe("half.png", signature(size=5), 0.0)
    folder.observe("half.png", signature(size=5), REST)
    folder.rest_as_incomplete("half.png", REST, LONG_REST)
    folder.observe("half.png", signature(size=10), 1.0)
    folder.observe("half.png", signature(size=10), 1.0 + REST)
    assert folder.state("half.png") is State.COMPLETE
    assert not folder.has_rested_as_incomplete("half.png")


def test_closing_an_image_without_its_end_again_does_not_shorten_its_rest(folder):
    folder.arrive("half.png", 0.0, closed=True)
    folder.observe("half.png", signature(), 0.0)
    folder.rest_as_incomplete("half.png", 0.0, LONG_REST)
    folder.arrive("half.png", 1.0, closed=True)
    folder.observe("half.png", signature(), 1.0)
    assert folder.state("half.png") is State.RESTING


def test_a_complete_image_stays_complete_while_it_waits(folder):
    folder.arrive("a.png", 0.0, closed=True)
    folder.observe("a.png", signature(), 0.0)
    folder.list_all({"a.png": signature()}, 0.1)
    assert folder.state("a.png") is State.COMPLETE


@pytest.mark.parametrize("change", ["size", "inode", "mtime", "ctime"])
def test_a_taken_image_that_is_replaced_is_new(folder, change):
    folder.list_all({"old.png": signature()}, 0.0)
    assert folder.state("old.png") is State.TAKEN
    folder.list_all({"old.png": signature(**{change: 99})}, 1.0)
    assert folder.state("old.png") is State.RESTING


def test_a_taken_image_that_is_written_again_within_the_clocks_resolution_is_read_again(folder):
    folder.arrive("old.png", 0.0, closed=True)
    folder.observe("old.png", signature(), 0.0)
    assert folder.state("old.png") is State.COMPLETE


def test_an_event_without_a_change_leaves_an_image_taken(folder):
    folder.arrive("old.png", 0.0, closed=False)
    folder.observe("old.png", signature(), 0.0)
    assert folder.state("old.png") is State.TAKEN


def test_a_listing_finds_what_no_event_told_of_and_drops_what_is_gone(folder):
    folder.arrive("gone.png", 0.0, closed=False)
    folder.list_all({"old.png": signature(), "new.png": signature()}, 0.0)
    assert [folder.state(path) for path in ("gone.png", "new.png")] == [None, State.RESTING]


def test_taken_images_that_are_gone_are_forgotten(folder):
    folder.take("new.png", signature())
    assert folder.forget_missing({"new.png": signature()}) == {"old.png"}
    assert (folder.state("old.png"), folder.counts()[State.TAKEN]) == (None, 1)


def test_nothing_is_forgotten_if_the_folder_looks_unmounted(folder):
    assert folder.forget_missing({}) == set()
    assert folder.state("old.png") is State.TAKEN


def test_an_image_that_cannot_be_read_is_tried_again_later(folder):
    folder.arrive("a.png", 0.0, closed=True)
    folder.observe("a.png", signature(), 0.0)
    folder.retry("a.png", 7.0)
    assert (folder.complete(), folder.due(6.9), folder.due(7.0)) == ({}, [], ["a.png"])
    folder.observe("a.png", signature(), 7.0)
    assert folder.state("a.png") is State.COMPLETE


def test_images_are_counted_by_state(folder):
    folder.arrive("a.png", 0.0, closed=False)
    folder.observe("b.png", signature(), 0.0)
    counts = {State.ARRIVED: 1, State.RESTING: 1, State.COMPLETE: 0, State.TAKEN: 1}
    assert folder.counts() == counts
