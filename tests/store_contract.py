"""The contract of a store of pictures: in memory, in a folder, and in S3."""

import hashlib

BODIES = {hashlib.sha256(body).hexdigest(): body for body in (b"", b"x", bytes(range(256)) * 2000)}
DIGEST, BODY = list(BODIES.items())[2]


class StoreContract:
    """A subclass has the fixture `store`, an empty one."""

    def test_what_is_put_is_got_as_it_was(self, store):
        for digest, body in BODIES.items():
            store.put(digest, body)
        assert {digest: store.get(digest) for digest in BODIES} == BODIES

    def test_what_is_not_there_is_none(self, store):
        assert store.get(DIGEST) is None
        assert list(store.list()) == []

    def test_what_is_put_twice_is_there_once(self, store):
        store.put(DIGEST, BODY)
        store.put(DIGEST, BODY)
        assert (list(store.list()), store.get(DIGEST)) == ([DIGEST], BODY)

    def test_all_digests_are_listed(self, store):
        for digest, body in BODIES.items():
            store.put(digest, body)
        assert sorted(store.list()) == sorted(BODIES)

    def test_what_is_deleted_is_gone_and_deleting_it_again_does_no_harm(self, store):
        for digest, body in BODIES.items():
            store.put(digest, body)
        store.delete(DIGEST)
        store.delete(DIGEST)
        assert store.get(DIGEST) is None
        assert sorted(store.list()) == sorted(BODIES.keys() - {DIGEST})

    def test_a_store_that_can_be_used_gives_a_sign_of_life(self, store):
        store.check()
        store.put(DIGEST, BODY)
        store.check()
        store.check_writing()
        assert list(store.list()) == [DIGEST]
