import traceback

import pytest

from patchline import config
from patchline.broker import rabbitmq
from patchline.broker.base import BrokerError
from patchline.operations import doctor, plant_users
from patchline.operations.doctor import State
from patchline.protocol import server_url
from patchline.protocol.errors import SetupError
from tests.conftest import CONFIG

SECRET = "77hunter2"
# Every letter that has a meaning in a url, unencoded, at the end and in the middle of a password.
LETTERS = "/?#@:[]%,;&=+ \\\"'<>|^`{}$!*~é\N{FULLWIDTH COMMERCIAL AT}\N{DOUBLE-STRUCK CAPITAL C}"
PASSWORDS = [f"77{letter}hunter2" for letter in LETTERS] + [f"{SECRET}{letter}" for letter in LETTERS]


def quotes(text, password):
    """Whether a text contains the beginning of a password, or four characters of it in a row."""
    return "77" in text or any(password[start : start + 4] in text for start in range(len(password) - 3))


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("amqp://h", [("h", 5672)]),
        ("amqps://u:p@h/vhost", [("h", 5671)]),
        ("amqp://u:p@h1:1,amqp://u:p@h2:2, amqp://[::1]:3", [("h1", 1), ("h2", 2), ("::1", 3)]),
        ("amqp://u:a,b@h:1,amqp://u:a,b@h:2", [("h", 1), ("h", 2)]),
        ("redis://:p@h/0", [("h", 6379)]),
        ("unix:///run/redis.sock", [("/run/redis.sock", 0)]),
    ],
)
def test_a_url_names_the_address_of_each_node(url, addresses):
    assert [server_url.address(node)[1:] for node in server_url.nodes(url)] == addresses


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["amqp", "redis", "http", ""])
def test_no_error_of_a_url_quotes_a_password(scheme, password, monkeypatch, tmp_path):
    url = f"{scheme}://user:{password}@127.0.0.1:1/"
    monkeypatch.setattr(doctor.private_servers, "missing_packages", list)
    settings = config.Config.model_validate({"categories": {"c": _recipe()}})
    monkeypatch.setattr(doctor, "_connected", lambda *_: _refuse())
    monkeypatch.setenv("PATCHLINE_AMQP_URL", url)
    attempts = (
        lambda: config.load(_configuration(tmp_path)),
        lambda: server_url.check(url),
        lambda: plant_users.write(tmp_path / "users", [], url),
        lambda: [rabbitmq._parameters(node, None, 30, "") for node in server_url.nodes(url)],
    )
    texts = [finding.text for finding in doctor._servers(config.with_urls(settings, url, url))]
    texts += [text for attempt in attempts for text in _printed(attempt)]
    assert texts
    assert not [text for text in texts if quotes(text, password)]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_in_the_configuration_is_refused_whatever_its_letters(password, tmp_path):
    for section, url in (("broker", f"amqp://h,amqp://u:{password}@h"), ("redis", f"redis://:{password}@h/0")):
        escaped = url.replace("\\", "\\\\").replace('"', '\\"')
        path = tmp_path / "config.yaml"
        path.write_text(f'{section}: {{url: "{escaped}"}}\n{_categories()}', encoding="utf-8")
        with pytest.raises(SetupError, match=f"{section}.url: contains a password") as error:
            config.load(path)
        assert not quotes(str(error.value).replace(str(path), ""), password)  # the folder may have a number with 77


def test_a_password_in_the_query_of_a_url_is_refused_in_the_configuration(tmp_path):
    with pytest.raises(SetupError, match=r"redis\.url: contains a password"):
        config.load(_configuration(tmp_path, "redis: {url: 'redis://h/0?password=hunter2'}"))


def test_the_doctor_looks_at_each_node_of_a_cluster(monkeypatch):
    tried = []
    monkeypatch.setattr(doctor, "_connected", lambda *address: tried.append(address) or _refuse())
    monkeypatch.setattr(doctor.private_servers, "missing_packages", list)
    settings = config.Config.model_validate({"categories": {"c": _recipe()}})
    urls = "amqp://u:p@one:1,amqp://u:p@two,amqps://u:p@three"
    findings = list(doctor._servers(config.with_urls(settings, urls, "")))
    assert [(scheme, host, port) for scheme, host, port in tried] == [
        ("amqp", "one", 1), ("amqp", "two", 5672), ("amqps", "three", 5671)
    ]  # fmt: skip
    assert [finding.state for finding in findings] == [State.PROBLEM] * 3 + [State.NOTE]


def test_users_keep_a_password_that_was_written_by_hand(tmp_path):
    plant_users.write(tmp_path, [], "amqp://one:1,amqp://two:2")
    (tmp_path / "gate.url").write_text("amqp://gate:a%2Fb%40c@one:1\n")
    plant_users.write(tmp_path, [], "amqp://one:1,amqp://two:2")
    expected = "amqp://gate:a%2Fb%40c@one:1,amqp://gate:a%2Fb%40c@two:2\n"
    assert (tmp_path / "gate.url").read_text() == expected


def _printed(attempt):
    """What a command would print: the error, or its stack trace with the errors that led to it."""
    try:
        attempt()
    except (SetupError, BrokerError) as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not show a password
        return ["".join(traceback.format_exception(error))]
    return []


def _refuse():
    raise OSError(111, "refused")


def _recipe():
    return {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}


def _categories():
    return "categories:" + CONFIG.split("categories:")[1]


def _configuration(folder, text=""):
    path = folder / "config.yaml"
    path.write_text(f"{text}\n{_categories()}")
    return path
