"""Memory banks in a bucket of S3: the contract on moto's server, servers with faults, and a line that is served."""

import re
import shutil
from contextlib import ExitStack

import pytest

from patchline import config
from patchline.banks import opening
from patchline.banks.objects import StoreUnavailable
from patchline.banks.versions import ChangedMeanwhile, Versions
from patchline.operations import store_checks
from patchline.operations.findings import State
from patchline.protocol.errors import SetupError
from tests import s3_server
from tests.objects_contract import ObjectsContract
from tests.proxy import Proxy
from tests.system.conftest import Line, records, wait_for
from tests.system.test_living_banks import activate, banks, make_host, serves

s3_server.require()
from patchline.banks.s3_objects import S3Objects  # noqa: E402 - it needs them
from patchline.runtime.bucket import Bucket  # noqa: E402

__all__ = ["banks"]  # a fixture
pytestmark = pytest.mark.timeout(240)
NOW = 1_800_000_000_000


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server.running(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "patchline")


@pytest.fixture
def url(request):
    """The url of a store for each test."""
    return f"s3://pictures/banks-of/{abs(hash(request.node.nodeid))}"


@pytest.fixture
def plain(request):
    server = s3_server.PlainServer()
    yield server
    server.close()


class TestS3(ObjectsContract):
    @pytest.fixture
    def objects(self, s3, url):
        return S3Objects(Bucket(url, s3))


def test_more_names_than_one_answer_of_s3_has_are_listed(s3, url):
    bucket = Bucket(url, s3)
    for number in range(1_001):
        bucket.put(f"brick/reports/{number:04}", b"")
    assert S3Objects(bucket).names("brick/reports") == [f"{number:04}" for number in range(1_001)]


def test_a_server_without_conditional_writes_is_refused_before_anything_is_written(plain):
    plain.conditional = False
    objects = S3Objects(Bucket("s3://pictures", plain.endpoint))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"knows no conditional writes .* or a folder"):
            objects.create("brick/log/00000001.json", b"first")
    assert {path for method, path in plain.requests if method == "PUT"} == {"/pictures/.conditional-put"}


def test_doctor_tells_a_server_that_nobody_may_use_from_one_that_can_be_written(plain, tmp_path, monkeypatch):
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    rules = {"store": "s3://pictures/banks", "endpoint": plain.endpoint}
    settings = config.Config.model_validate({"banks": rules, "categories": {"brick": category}})
    opening.versions(settings).make()
    assert [finding.state for finding in store_checks.bank_store(settings)] == [State.OK, State.OK]
    plain.conditional = False
    read, write = store_checks.bank_store(settings)
    assert (read.state, write.state) == (State.OK, State.PROBLEM)
    assert "knows no conditional writes" in write.text
    plain.forbids = True
    read, write = store_checks.bank_store(settings)
    assert (read.state, write.state) == (State.OK, State.NOTE)
    assert "may only read, which is enough to serve" in write.text
    with pytest.raises(StoreUnavailable):
        opening.objects(settings.banks).create("brick/log/00000001.json", b"first")


def test_an_act_whose_answer_was_lost_is_done_once_and_by_its_author(plain):
    anna, bob = (S3Objects(Bucket("s3://pictures", plain.endpoint)) for _ in range(2))
    assert anna.create("brick/log/1", b"before")
    plain.loses_answers = True
    assert anna.create("brick/log/2", b"anna")
    plain.loses_answers = False
    assert not bob.create("brick/log/2", b"bob")
    assert not bob.create("brick/log/2", b"anna")
    assert bob.read("brick/log/2") == b"anna"


def test_an_act_that_nobody_can_ask_about_is_said_to_be_unknown(plain):
    objects = S3Objects(Bucket("s3://pictures", plain.endpoint))
    assert objects.create("brick/log/1", b"before")
    plain.loses_answers = plain.reads_nothing = True
    with pytest.raises(StoreUnavailable, match="whether it was done is not known, so look"):
        objects.create("brick/log/2", b"anna")


def test_a_store_that_has_not_answered_is_not_asked_for_each_category(plain):
    now = [0.0]
    objects = S3Objects(Bucket("s3://pictures", plain.endpoint), clock=lambda: now[0])
    plain.reads_nothing = True
    with pytest.raises(StoreUnavailable) as first:
        objects.read("a")
    asked = len(plain.requests)
    for use in (lambda: objects.read("b"), lambda: objects.names("c")):
        with pytest.raises(StoreUnavailable) as again:
            use()
        assert str(again.value) == str(first.value)
    assert len(plain.requests) == asked
    plain.reads_nothing, now[0] = False, 5.0
    assert objects.read("b") is None


def test_a_store_that_has_frozen_is_told_from_one_that_is_slow(plain):
    proxy = Proxy(int(plain.endpoint.rpartition(":")[2]))
    endpoint = f"http://127.0.0.1:{proxy.port}"
    quick = Bucket("s3://pictures", endpoint, request_s=0.2)
    objects = S3Objects(Bucket("s3://pictures", plain.endpoint), quick, clock=lambda: 0.0)
    assert objects.create("brick/versions/a/index", b"large")
    proxy.hold()
    with pytest.raises(StoreUnavailable, match=r"error sending request|timed out"):
        objects.read("brick/log/1")
    proxy.close()
    with pytest.raises(StoreUnavailable, match=r"error sending request|timed out"):  # not asked again yet
        objects.read("brick/versions/a/index")


def test_a_bucket_that_is_missing_and_a_server_that_is_away_are_no_empty_stores(s3, plain):
    plain.close()
    for bucket in (Bucket("s3://missing", s3), Bucket("s3://pictures", plain.endpoint)):
        versions = Versions(S3Objects(bucket), "STORE", lambda: NOW)
        for use in (versions.make, versions.categories, lambda versions=versions: versions.state("brick")):
            with pytest.raises(StoreUnavailable) as caught:
                use()
            assert "\n" not in str(caught.value)


def test_of_two_people_who_activate_at_once_one_is_told_what_the_other_did(s3, url, banks):
    anna, bob = (Versions(S3Objects(Bucket(url, s3)), "STORE", lambda: NOW) for _ in range(2))
    assert (anna.make(), bob.make()) == (True, False)
    first, second = (anna.publish(folder, "brick", "anna", "why")[0] for folder in banks)
    seen = bob.state("brick")
    anna.activate("brick", first, "anna", "week 48")
    with pytest.raises(ChangedMeanwhile, match=rf"nothing was done; anna has activated {first[:12]} \(week 48\)"):
        bob._record("brick", seen, "activate", second, "bob", "why")
    assert bob.state("brick").active == first


@pytest.fixture
def line(empty_servers, tmp_path, s3, url):
    """A line whose banks are in S3, behind a proxy."""
    proxy = Proxy(int(s3.rpartition(":")[2]))
    with ExitStack() as stack:
        stack.callback(proxy.close)
        line = Line(make_host(tmp_path / "a", url, f"http://127.0.0.1:{proxy.port}"), empty_servers, stack)
        line.proxy = proxy
        yield line


def said(line, *command, code=0):
    result = line.run("banks", *command)
    assert result.returncode == code, result.err
    assert "Traceback" not in result.err
    return result.out + result.err


def test_a_line_is_served_from_s3_and_keeps_its_bank_while_that_is_away(line, banks, tmp_path, s3, url, servers):
    assert "no store of memory banks" in said(line, "list", "brick", code=2)
    assert said(line, "init") == f"{url}: made\n"
    assert said(line, "init") == f"{url}: is a store of memory banks already\n"
    published = [said(line, "publish", "brick", "--from", str(folder), "--why", "a test") for folder in banks]
    versions = [re.search(r"is version ([0-9a-f]{64})", text)[1] for text in published]
    activate(line, versions[0])
    with ExitStack() as stack:  # a second host, without the proxy
        other = Line(make_host(tmp_path / "b", url, s3), servers, stack)
        first, second = other.worker("--device", "cpu"), line.worker("--device", "cpu")
        line.proxy.close()
        wait_for(lambda: "cannot be read, serving the previous banks" in second.stderr.readline())
        activate(other, versions[1])
        wait_for(lambda: serves(first) == versions[1][:12])
        assert serves(second) == versions[0][:12]
        assert "s3://" in said(line, "list", "brick", code=2)
        second.terminate()  # also after a restart, without the store
        assert second.wait(30) == 0
        second = line.worker("--device", "cpu")
        assert serves(second) == versions[0][:12]
        line.proxy = Proxy(int(s3.rpartition(":")[2]), line.proxy.port)
        wait_for(lambda: serves(second) == versions[1][:12])
        assert f"version {versions[0][:12]} is active again" in said(line, "rollback", "brick", "--why", "a test")
        wait_for(lambda: {serves(first), serves(second)} == {versions[0][:12]})
        assert "is retired" in said(line, "retire", "brick", versions[1][:8], "--why", "a test")
        listed = said(line, "list", "brick")
        assert re.search(rf"{versions[0][:12]} │ active .* │ 2 ", listed)
        assert re.search(rf"{versions[1][:12]} │ retired .* │ 0 ", listed)
        log = records(said(line, "log", "brick"))
        acts = [entry["act"] for entry in log if "act" in entry]
        assert acts == ["publish", "publish", "activate", "activate", "rollback", "retire"]
        assert [entry["state"] for entry in log if "worker" in entry] == ["serving"] * 4
        line.proxy.close()
        shutil.rmtree(line.folder / "served-banks")  # what is served is in memory
        assert serves(second) == versions[0][:12]


def test_a_url_that_obstore_cannot_use_ends_the_command_with_one_line(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", "/missing")
    with pytest.raises(SetupError, match="AWS_SECRET_ACCESS_KEY"):
        Bucket("s3://pictures")
