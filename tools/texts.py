"""`python -m tools.texts`: collect the texts of the console's pages, and compile their translations.

New texts appear in `patchline/console/locale/*/LC_MESSAGES/console.po` with an empty translation. Write it, and run the
command again. `tests/unit/test_console_texts.py` fails while one is missing.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from patchline.console import texts

_PAGES = texts.FOLDER.parent
_METHODS = [("templates/**.html", "jinja2"), ("**.py", "python")]
_KEYWORDS: dict[str, None] = {"_": None, "mark": None}
_FIRST = "en"  # the language of the sources


def collect() -> Catalog:
    """Return all texts of the pages, without their translations."""
    catalog = Catalog(project="Patchline", charset="utf-8")
    found = extract_from_dir(str(_PAGES), _METHODS, keywords=_KEYWORDS)
    for file, _, message, _, _ in sorted(found, key=lambda one: (one[0], one[1])):
        catalog.add(message, locations=[(file, 1)])  # without line numbers, which change with every line
    return catalog


def languages() -> list[str]:
    """Return the languages that have a catalogue."""
    return [language for language in texts.LANGUAGES if language != _FIRST]


def source(language: str) -> Path:
    """Return the file with the translations of a language."""
    return texts.FOLDER / language / "LC_MESSAGES" / f"{texts.DOMAIN}.po"


def read(language: str) -> Catalog:
    """Return the translations of a language."""
    with source(language).open("rb") as file:
        return read_po(file, locale=language)


def compiled(catalog: Catalog) -> bytes:
    """Return the translations as the pages read them."""
    output = io.BytesIO()
    write_mo(output, catalog)
    return output.getvalue()


def main() -> int:
    """Bring the catalogues up to date. Return the exit code: 1 if a translation is missing."""
    missing = 0
    for language in languages():
        file = source(language)
        file.parent.mkdir(parents=True, exist_ok=True)
        catalog = read(language) if file.exists() else Catalog(locale=language, project="Patchline", charset="utf-8")
        catalog.update(collect(), no_fuzzy_matching=True)
        catalog.obsolete.clear()
        with file.open("wb") as output:
            write_po(output, catalog, width=120, omit_header=False, include_lineno=False, sort_by_file=True)
        file.with_suffix(".mo").write_bytes(compiled(catalog))
        empty = [str(message.id) for message in catalog if message.id and not message.string]
        missing += len(empty)
        print(f"{language}: {len(catalog)} texts, {len(empty)} without a translation", *empty, sep="\n  ")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
