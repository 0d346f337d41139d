"""The contract of the rows of pictures: in memory, in SQLite and in PostgreSQL. And a picture as a worker sends it."""

import hashlib

from patchline.archive.pictures import PictureRow
from patchline.broker.base import Message
from patchline.protocol.picture_message import PICTURE_TYPE, Picture

NOW = 1_700_000_000_000


def row(job_id="job-1", kind="image", body=b"image", at=NOW, **changes):
    values = {
        "job_id": job_id,
        "kind": kind,
        "digest": hashlib.sha256(body).hexdigest(),
        "content_type": "image/png",
        "bytes": len(body),
        "stored_at": at,
        "decision": "fail",
        "line": "l1",
        "category": "brick",
    }
    return PictureRow(**values | changes)


def picture(job_id="job-1", kind="image", body=b"image", decision="fail", **changes):
    """A picture as the message of a worker."""
    values = {
        "job_id": job_id,
        "line": "l1",
        "category": "brick",
        "decision": decision,
        "kind": kind,
        "sha256": hashlib.sha256(body).hexdigest(),
        "content_type": "image/png",
    }
    fields = Picture(**values)
    return Message(body, job_id, PICTURE_TYPE, fields.content_type, headers=fields.headers() | changes)


class PictureContract:
    """A subclass has the fixture `index`, an empty one."""

    def test_a_row_is_read_as_it_was_stored_and_the_first_one_of_a_kind_stays(self, index):
        image, heat = row(), row(kind="heat_map", body=b"heat")
        assert index.add([image, heat]) == 2
        assert index.add([row(body=b"another", at=NOW + 1), row("job-2")]) == 1
        assert index.of_job("job-1") == [heat, image]
        assert index.of_job("nothing") == []
        assert index.known(["job-1", "nothing"]) == {image.key, heat.key}
        assert index.known([]) == set()
        assert index.kinds(["job-1", "job-2", "nothing"]) == {"job-1": ["heat_map", "image"], "job-2": ["image"]}

    def test_the_oldest_of_a_decision_are_found_before_a_time(self, index):
        rows = [row(f"job-{number}", at=NOW + number) for number in range(5)]
        index.add([*reversed(rows), row("pass", decision="pass")])
        assert index.oldest("fail", None, 3) == rows[:3]
        assert index.oldest("fail", NOW + 2, 10) == rows[:2]
        assert index.oldest("review", None, 10) == []
        assert index.bytes_by_decision() == {"fail": 25, "pass": 5}

    def test_what_is_held_is_neither_found_nor_marked_and_can_be_released(self, index):
        index.add([row(), row(kind="heat_map"), row("job-2")])
        found = index.oldest("fail", None, 10)
        assert index.hold("job-1", "claim 7") == 2
        assert index.hold("nothing", "claim 7") == 0
        assert index.begin_removal(found) == [row("job-2", leaving=True)]
        assert [one.hold for one in index.of_job("job-1")] == ["claim 7"] * 2
        assert index.hold("job-1", None) == 2
        assert len(index.oldest("fail", None, 10)) == 2

    def test_what_is_leaving_is_not_shown_and_cannot_be_held(self, index):
        index.add([row(), row("job-2", body=b"other")])
        marked = index.begin_removal([row()])
        assert marked == index.leaving(10) == [row(leaving=True)]
        assert (index.of_job("job-1"), index.kinds(["job-1"]), index.hold("job-1", "late")) == ([], {}, 0)
        assert index.oldest("fail", None, 10) == [row("job-2", body=b"other")]
        index.end_removal([*marked, row("job-2", body=b"other")])  # the latter is not marked
        assert index.leaving(10) == []

    def test_bytes_are_needed_while_a_row_that_stays_has_them(self, index):
        index.add([row(), row("job-2")])
        digest = row().digest
        index.begin_removal([row()])
        assert index.is_needed(digest)
        index.begin_removal([row("job-2")])
        assert not index.is_needed(digest)
