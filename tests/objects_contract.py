"""The contract of the objects of which a store of memory banks is made: in memory, in a folder, and in S3."""

import threading
from concurrent.futures import ThreadPoolExecutor


class ObjectsContract:
    """A subclass or its module has the fixture `objects`, empty ones."""

    def test_an_object_is_made_once_and_never_changed(self, objects):
        assert objects.read("brick/log/1") is None
        assert objects.names("brick/log") == []
        assert objects.create("brick/log/1", b"first")
        assert not objects.create("brick/log/1", b"second")
        assert not objects.create("brick/log/1", b"first")
        objects.create("brick/log/2", b"")
        objects.create("brick/versions/a/index", b"x")
        assert objects.read("brick/log/1") == b"first"
        assert objects.names("brick/log") == ["1", "2"]
        assert objects.names("brick/versions") == ["a"]
        assert objects.names("") == ["brick"]

    def test_one_of_many_makes_an_object_that_all_make_at_the_same_time(self, objects):
        start = threading.Barrier(8)

        def make(number):
            start.wait(10)
            return objects.create("log/1", b"%d" % number * 100_000)

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(make, range(8)))
        assert made.count(True) == 1
        assert objects.read("log/1") == b"%d" % made.index(True) * 100_000
        assert objects.names("log") == ["1"]
