"""The accounts of the console on the command line."""

from contextlib import closing

import pytest
from typer.testing import CliRunner

from patchline import config
from patchline.cli import main
from patchline.console.database import ConsoleDatabase
from patchline.console.passwords import Passwords
from patchline.console.sessions import Sessions
from tests.archive_contract import NOW
from tests.console_bench import PASSWORDS

CATEGORIES = "categories:\n  brick: {backbone: b, layer: l, resize: 256, imagesize: 224}\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("patchline.console.passwords.Passwords", lambda: PASSWORDS)
    (tmp_path / "config.yaml").write_text(CATEGORIES)
    (tmp_path / "password").write_text("correct horse\n")

    def run(*words):
        return CliRunner().invoke(main.app, ["console", *words, "--config", str(tmp_path / "config.yaml")])

    run.password = ("--password-file", str(tmp_path / "password"))
    return run


def test_accounts_are_added_listed_changed_and_removed_and_each_change_is_in_the_audit_log(run):
    assert run("users", "add", "anna", "--role", "review", *run.password).stdout == "anna: review\n"
    assert run("users", "role", "anna", "engineer").stdout == "anna: engineer\n"
    assert run("users", "password", "anna", *run.password).exit_code == 0
    assert run("users", "list").stdout.startswith("anna  engineer  ")
    assert run("users", "remove", "anna").stdout == "anna: removed\n"
    assert run("users", "list").stdout == ""
    entries = [line.split("  ")[2:] for line in run("audit").stdout.splitlines()]
    assert entries == [
        ["account removed", "anna"],
        ["password changed", "anna"],
        ["role changed", "anna, role engineer"],
        ["account added", "anna, role review"],
    ]
    assert len(run("audit", "--most", "2").stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("users", "add", "anna", "--role", "review"), "there is no terminal to ask for a password"),
        (
            ("users", "add", "anna", "--role", "review", "--password-file", "missing"),
            "has no password in its first line",
        ),
        (("users", "remove", "anna"), "there is no account 'anna'"),
        (("users", "disable", "anna"), "there is no account 'anna'"),
        (("users", "enable", "anna"), "there is no account 'anna'"),
    ],
)
def test_what_cannot_be_done_is_said(run, words, reason):
    result = run(*words)
    assert result.exit_code != 0
    assert reason in str(result.exception)


def test_an_account_is_disabled_and_enabled_its_log_ins_end_and_both_are_in_the_audit_log(run, tmp_path):
    run("users", "add", "anna", "--role", "review", *run.password)
    with closing(ConsoleDatabase(config.load(tmp_path / "config.yaml").console.database, lambda: NOW)) as database:
        sessions = Sessions(database, idle_minutes=60, hours=12)
        token = sessions.begin("anna").token
        assert run("users", "disable", "anna").stdout == "anna: disabled\n"
        assert sessions.find(token) is None
        assert run("users", "list").stdout.endswith("  disabled\n")
        assert run("users", "enable", "anna").stdout == "anna: enabled\n"
        assert sessions.find(token) is None, "the earlier log-in does not come back"
        assert sessions.find(sessions.begin("anna").token) is not None
    assert "disabled" not in run("users", "list").stdout
    entries = [line.split("  ")[1:] for line in run("audit").stdout.splitlines()]
    changes = [(who.split(" (")[0], what, name) for who, what, name in filter(lambda entry: len(entry) == 3, entries)]
    assert changes[:2] == [("command line", "account enabled", "anna"), ("command line", "account disabled", "anna")]


def test_the_last_administrator_is_not_disabled(run):
    run("users", "add", "eve", "--role", "admin", *run.password)
    assert "'eve' is the last administrator" in str(run("users", "disable", "eve").exception)
    assert "disabled" not in run("users", "list").stdout


def test_a_role_that_does_not_exist_is_refused(run):
    assert run("users", "add", "anna", "--role", "boss", *run.password).exit_code == 2


def test_a_password_is_right_or_wrong_and_a_damaged_hash_is_wrong():
    passwords = Passwords(memory_kib=32, passes=1)
    hashed = passwords.hash("correct horse")
    assert hashed.startswith("$argon2id$")
    assert passwords.is_right(hashed, "correct horse")
    assert not passwords.is_right(hashed, "correct horses")
    assert not passwords.is_right("damaged", "correct horse")
    assert not passwords.is_right(None, "nobody has this password")
