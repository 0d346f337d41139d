"""The lessons: what was taught, what is being taught, and a form to begin."""

from __future__ import annotations

import re
from dataclasses import dataclass

from patchline.console import audit, bank_changes, known_categories
from patchline.console.context import Console
from patchline.console.lesson_files import Note
from patchline.console.lessons import Lesson
from patchline.console.texts import mark
from patchline.console.visit import Redirect, Refused, Reply, Visit
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

_SHOWN = 50


@dataclass(frozen=True)
class Row:
    """A lesson in the list. `state` is of its latest fit; empty: there was none."""

    id: str
    note: Note
    good: int
    defects: int
    state: str


def show(console: Console, visit: Visit) -> Reply:
    """Show the lessons."""
    console.lessons.sweep()
    rows = [_row(console, lesson) for lesson in console.lessons.all()[:_SHOWN]]
    settings = console.settings
    return console.templates.render(
        "teach.html",
        visit,
        rows=[row for row in rows if row is not None],
        categories=known_categories.names(console),
        has_store=console.banks is not None,
        like=settings.banks.new_categories_like,
        keep_days=settings.console.teach.keep_days,
    )


def begin(console: Console, visit: Visit) -> Reply:
    """Begin a lesson, and show it."""
    name = visit.one("category")
    if re.fullmatch(messages.NAME_PATTERN, name) is None:
        raise Refused(400, mark("A category has a name of letters, digits, _ and -, 63 at most."), name[:80])
    bank_changes.store(console)
    try:
        console.settings.category(name)
    except SetupError as error:
        raise Refused(400, mark("The line cannot judge this category."), str(error)) from error
    lesson = console.lessons.begin(name, visit.person.name)
    audit.record(console.database, visit.person.name, "lesson begun", f"{name}, lesson {lesson.id}")
    return Redirect(f"/teach/{lesson.id}")


def _row(console: Console, lesson: Lesson) -> Row | None:
    """Return the row of a lesson; None if it cannot be read, since it is being deleted."""
    try:
        run = console.teacher.run_of(lesson)
        state = "" if run is None else run.state
        return Row(lesson.id, lesson.note, len(lesson.good()), len(lesson.defects()), state)
    except (SetupError, OSError):
        return None
