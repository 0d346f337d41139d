"""What the documents say of the repository is there."""

import re
from pathlib import Path

import pytest

FOLDERS = (".", "docs", "models", "faiss-index-precision", "tests/standin")
DOCUMENTS = [path for folder in FOLDERS for path in sorted(Path(folder).glob("*.md"))]
# Grafana writes each query into one line.
DEPLOYED = [path for path in sorted(Path("deploy").rglob("*")) if path.is_file() and path.suffix != ".json"]
MOST_COLUMNS = 120


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.S)


@pytest.mark.parametrize("document", [*DOCUMENTS, *Path("patchline/packaged").rglob("*.md")], ids=str)
def test_lines_fit_into_120_columns(document):
    assert [line for line in document.read_text().splitlines() if len(line) > MOST_COLUMNS] == []


@pytest.mark.parametrize("file", DEPLOYED, ids=str)
def test_lines_of_deployed_files_fit_into_120_columns(file):
    script = "ExecStart=/bin/bash -c "  # one word of a command
    rows = [row for row in file.read_text().splitlines() if not row.startswith(script)]
    assert [row for row in rows if len(row) > MOST_COLUMNS] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_that_are_named_exist(document):
    named = re.findall(
        r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml|yml|conf|json|service|sh|c))`", without_code(document.read_text())
    )
    made_elsewhere = ("out/", "/", "deploy/secrets", "secrets/")
    missing = [name for name in named if not name.startswith(made_elsewhere) and not Path(name).exists()]
    assert [name for name in missing if not (document.parent / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []
