"""A store of pictures in S3: the contract, on moto's server."""

import pytest

from patchline.archive.store import StoreUnavailable
from patchline.protocol.errors import SetupError
from patchline.services import server
from tests import s3_server
from tests.store_contract import BODY, DIGEST, StoreContract

s3_server.require()
from patchline.archive.s3_store import S3Store  # noqa: E402 - it needs them
from patchline.runtime.bucket import Bucket  # noqa: E402

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server.running(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path):
    """One key from the environment, and one from a file."""
    (tmp_path / "key").write_text("secret\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "patchline")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "key"))


def opened(url, endpoint):
    return S3Store(Bucket(url, endpoint))


class TestS3(StoreContract):
    @pytest.fixture
    def store(self, s3):
        store = opened("s3://pictures/plant/a", s3)
        yield store
        for digest in list(store.list()):
            store.delete(digest)


def test_two_folders_of_a_bucket_are_two_stores(s3):
    first, second = opened("s3://pictures/a", s3), opened("s3://pictures/b/", s3)
    first.put(DIGEST, BODY)
    assert (first.get(DIGEST), second.get(DIGEST), list(second.list())) == (BODY, None, [])


def test_a_bucket_that_is_missing_and_a_server_that_is_away_are_errors_of_one_line(s3):
    (port,) = server.free_ports(1)
    for store in (opened("s3://missing", s3), opened("s3://pictures", f"http://127.0.0.1:{port}")):
        for action in (store.check, lambda store=store: store.put(DIGEST, BODY), lambda store=store: store.get(DIGEST)):
            with pytest.raises(StoreUnavailable) as caught:
                action()
            assert "\n" not in str(caught.value)
            assert "secret" not in str(caught.value)


def test_a_key_whose_file_cannot_be_read_ends_the_archive_with_one_line(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", "/missing")
    with pytest.raises(SetupError, match="AWS_SECRET_ACCESS_KEY_FILE"):
        opened("s3://pictures", s3)
