"""The command that writes reports."""

import hashlib
import json
import stat
from pathlib import Path

import pypdf
import pytest
from typer.testing import CliRunner

from patchline.archive.ledger_database import LedgerDatabase
from patchline.cli import main
from tests.archive_contract import NOW
from tests.period_contract import MINUTE, fill

CONFIGURATION = """
categories:
  brick: {backbone: b, layer: l, resize: 256, imagesize: 224}
console:
  time_zone: Europe/Berlin
  language: de
  shifts: {day: "06:00-06:00"}
"""
SHIFT = ("--shift", "day@2023-11-14", "--line", "l1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plant")
    (folder / "config.yaml").write_text(CONFIGURATION)
    archive = LedgerDatabase(folder / "archive" / "archive.sqlite")
    archive.prepare()
    fill(archive)
    archive.close()

    def run(*words):
        return CliRunner().invoke(main.app, ["report", *words, "--config", str(folder / "config.yaml")])

    return run


def test_a_report_is_written_in_place_of_the_one_before_with_its_digest(run, tmp_path):
    html, pdf = tmp_path / "early.html", tmp_path / "early.pdf"
    html.write_text("the one before")
    result = run(*SHIFT, "--html", str(html), "--pdf", str(pdf))
    assert result.exit_code == 0, result.exception
    assert "Schicht day vom 2023-11-14" in html.read_text()
    assert "Schicht day vom 2023-11-14" in pypdf.PdfReader(pdf).pages[0].extract_text()
    for file, line in zip((html, pdf), result.stdout.splitlines(), strict=True):
        assert line == f"{file}: {file.stat().st_size} bytes, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
        assert stat.S_IMODE(file.stat().st_mode) & 0o400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["early.html", "early.pdf"]


def test_the_language_can_be_named(run, tmp_path):
    assert run(*SHIFT, "--language", "zh", "--html", str(tmp_path / "zh.html")).exit_code == 0
    assert "2023-11-14 班次 day" in (tmp_path / "zh.html").read_text()
    assert run(*SHIFT, "--language", "fr").exit_code == 2


def test_without_a_file_the_figures_are_in_the_terminal_and_with_json_for_programs(run):
    shown = run(*SHIFT).stdout
    assert "shift day@2023-11-14" in shown
    assert "parts: 10" in shown
    figures = json.loads(run(*SHIFT, "--json").stdout)
    assert figures["parts"] == 10
    assert figures["request"]["since"] == 1_699_938_000_000
    assert [one["job_id"] for one in figures["worst"]] == ["d", "b", "c"]
    since, until = (f"2023-11-14T{at}+00:00" for at in ("22:13:20", "23:13:20"))
    batch = json.loads(run("--batch", "B7-", "--since", since, "--until", until, "--json").stdout)
    assert batch["parts"] == 3
    assert batch["extent"] == [NOW + 2 * MINUTE, NOW + 59 * MINUTE]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "name a shift, a batch, or the time"),
        (("--shift", "noon"), "there is no shift 'noon'; known: day"),
        ((*SHIFT, "--pdf", "missing/x.pdf"), "missing/x.pdf: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(run, words, reason):
    result = run(*words)
    assert result.exit_code != 0
    assert reason in str(result.exception)
    assert not Path("missing").exists()
