"""The accounts of the console on the command line."""

import pytest
from typer.testing import CliRunner

from patchline.cli import main
from patchline.console.passwords import Passwords
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
    ],
)
def test_what_cannot_be_done_is_said(run, words, reason):
    result = run(*words)
    assert result.exit_code != 0
    assert reason in str(result.exception)


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
