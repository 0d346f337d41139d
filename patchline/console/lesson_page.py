"""One lesson: its pictures, those that stand out, its fit, and how the new version judges."""

from __future__ import annotations

from patchline.archive import times
from patchline.archive.store import StoreUnavailable
from patchline.banks import calibration
from patchline.console import archived_parts, audit, bank_changes, lesson_plot, lessons
from patchline.console.archived_parts import Kind, Wanted
from patchline.console.context import Console
from patchline.console.lesson_files import Run
from patchline.console.lessons import Lesson
from patchline.console.teacher import Busy
from patchline.console.texts import mark
from patchline.console.told import Told
from patchline.console.uploads import Limits
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit
from patchline.inspection import image_header
from patchline.protocol.errors import DiskFull, SetupError

_REFUSED_SHOWN = 50
_DEFAULT_COUNT = 100
_NOTHING_NEW = Answer(b"", status=204)


def show(console: Console, visit: Visit) -> Reply:
    """Show a lesson."""
    return _page(console, visit, _lesson(console, visit))


def show_run(console: Console, visit: Visit) -> Reply:
    """Show how the fit goes, for htmx. Once it has ended, or without htmx, it is the whole page."""
    lesson = _lesson(console, visit)
    if not visit.partial or console.teacher.busy_with != lesson:
        return Redirect(f"/teach/{lesson.id}")
    is_new = visit.one("have") != _place(lesson.run)
    return _page(console, visit, lesson, name="lesson_run.html") if is_new else _NOTHING_NEW


def show_small(console: Console, visit: Visit) -> Reply:
    """Show a picture of a lesson, small."""
    return _jpeg(_lesson(console, visit).small(visit.names["kind"], visit.names["name"]))


def show_tile(console: Console, visit: Visit) -> Reply:
    """Show a picture that stands out, with its heat map."""
    return _jpeg(_lesson(console, visit).tile(visit.names["name"]))


def limits(console: Console, visit: Visit) -> Limits:
    """Return how much may still be uploaded to a lesson."""
    lesson = _lesson(console, visit)
    _require_idle(console, lesson)
    section = console.settings.console.teach
    count, size = lesson.size()
    folder = console.lessons.folder / ".incoming"
    most = max(0, section.max_bytes - size)
    return Limits(folder, max(0, section.max_pictures - count), console.settings.images.max_bytes, most)


def upload(console: Console, visit: Visit) -> Reply:
    """Add the pictures that were sent. The page that says which were refused can be loaded again, and come back to."""
    lesson = _lesson(console, visit)
    kind = lessons.GOOD if visit.one("label") != "defect" else visit.one("kind") or "defect"
    if visit.one("label") == "defect" and not lessons.is_kind(kind):
        raise Refused(400, mark("A kind of defect has a name of letters, digits, _ and -, 63 at most."), kind[:80])
    console.database.require_room(sum(file.path.stat().st_size for file in visit.files if file.path is not None))
    added, turned, refused, full = 0, 0, [], ""
    for file in visit.files:
        problem = full or console.templates.say(visit, file.problem)
        if file.path is not None and not full:
            body = file.path.read_bytes()
            try:
                problem = _add(console, lesson, kind, file.name, body) or ""
            except DiskFull as error:
                if not added:
                    raise
                problem = full = str(error)  # of this one and the others; what was added before is in the lesson
            added += not problem
            turned += not problem and image_header.orientation(body) != 1
        if problem:
            refused.append((file.name, problem))
    _note_added(console, visit, lesson, added, len(refused), "uploaded")
    more = max(0, len(refused) - _REFUSED_SHOWN)
    key = console.notes.keep(Told(tuple(refused[:_REFUSED_SHOWN]), more, turned))
    return Redirect(f"/teach/{lesson.id}?added={added}&told={key}")


def choose(console: Console, visit: Visit) -> Reply:
    """Add pictures of the archive."""
    lesson = _lesson(console, visit)
    _require_idle(console, lesson)
    room = limits(console, visit).files
    wanted = _wanted(console, visit, lesson, room)
    added, refused = 0, 0
    try:
        found = archived_parts.find(console.archive, console.pictures, console.store, wanted) if wanted.most else ()
        for one in found:
            problem = "" if one.body is None else _add(console, lesson, one.kind, one.name, one.body)
            added, refused = added + (problem is None), refused + (problem is not None)
    except StoreUnavailable as error:
        raise Refused(503, mark("The store of the pictures does not answer."), str(error)) from error
    except DiskFull as error:
        _note_added(console, visit, lesson, added, refused, f"from the archive, {wanted.kind}; the disk is full")
        raise Refused(507, mark("The disk is full. What was added before is in the lesson."), str(error)) from error
    _note_added(console, visit, lesson, added, refused, f"from the archive, {wanted.kind}")
    return Redirect(f"/teach/{lesson.id}?added={added}&without={refused}")


def fit(console: Console, visit: Visit) -> Reply:
    """Start the fit, with what the person says of pictures that stand out."""
    lesson = _lesson(console, visit)
    note, names = lesson.note, set(lesson.good())
    left_out = names & set(visit.form.get("leave", ()))
    accepted = (set(note.accepted) | set(visit.form.get("seen", ()))) & names - left_out
    chosen = {"trial": visit.one("trial") == "yes", "left_out": _sorted(left_out), "accepted": _sorted(accepted)}
    try:
        bank_changes.store(console).state(note.category)
    except SetupError as error:
        raise Refused(503, mark("The store of memory banks cannot be used now"), str(error)) from error
    try:
        if console.teacher.busy_with != lesson:
            lesson.choose(note.model_copy(update=chosen))
        console.teacher.start(lesson, visit.person.name)
    except Busy as error:
        raise Refused(409, mark("A fit is running already."), str(error)) from error
    audit.record(console.database, visit.person.name, "fit started", f"{note.category}, lesson {lesson.id}")
    return Redirect(f"/teach/{lesson.id}")


def cancel(console: Console, visit: Visit) -> Reply:
    """End the fit."""
    lesson = _lesson(console, visit)
    if console.teacher.cancel(lesson):
        detail = f"{lesson.note.category}, lesson {lesson.id}"
        audit.record(console.database, visit.person.name, "fit cancelled", detail)
    return Redirect(f"/teach/{lesson.id}")


def delete(console: Console, visit: Visit) -> Reply:
    """Delete the lesson and its pictures, if the person is sure."""
    lesson = _lesson(console, visit)
    if visit.one("sure") != "yes":
        raise Refused(400, mark("Tick the box beside the button: nothing was deleted."))
    _require_idle(console, lesson)
    detail = f"{lesson.note.category}, lesson {lesson.id}"
    console.lessons.remove(lesson)
    audit.record(console.database, visit.person.name, "lesson deleted", detail)
    return Redirect("/teach")


def _page(console: Console, visit: Visit, lesson: Lesson, name: str = "lesson.html") -> Answer:
    run, section = console.teacher.run_of(lesson), console.settings.console.teach
    note, result = lesson.note, None if run is None else run.result
    count, recipe = visit.one("added"), console.settings.recipe(note.category)
    told = console.notes.of(visit.one("told"))
    return console.templates.render(
        name,
        visit,
        lesson=lesson.id,
        note=note,
        good=lesson.good(),
        defects=lesson.defects(),
        run=run,
        have=_place(run),
        plot=None if result is None else lesson_plot.plot(result),
        added=int(count) if count.isdecimal() and len(count) < 6 else None,
        turned=told.turned,
        refused=told.refused,
        more=told.more,
        without=visit.one("without"),
        kinds=console.settings.console.defect_kinds,
        sources=Kind,
        count=min(_DEFAULT_COUNT, section.max_pictures),
        most=section.max_pictures,
        most_bytes=console.settings.images.max_bytes,
        is_new=note.category not in console.settings.categories,
        needed=0 if recipe is None else calibration.images_for(recipe.false_reject_rate),
        needed_for_trial=calibration.TRIAL_IMAGES,
    )


def _place(run: Run | None) -> str:
    """Return where a fit is, for a browser that looks again."""
    return "" if run is None else f"{run.step}:{run.done}"


def _lesson(console: Console, visit: Visit) -> Lesson:
    lesson = console.lessons.find(visit.names["lesson"])
    if lesson is None:
        raise Refused(404, mark("There is no such lesson any more."))
    return lesson


def _require_idle(console: Console, lesson: Lesson) -> None:
    if console.teacher.busy_with == lesson:
        raise Refused(409, mark("A fit is running already."))


def _add(console: Console, lesson: Lesson, kind: str, name: str, body: bytes) -> str | None:
    settings = console.settings
    return lesson.add(kind, name, body, settings.images, settings.category(lesson.note.category))


def _note_added(console: Console, visit: Visit, lesson: Lesson, added: int, refused: int, whence: str) -> None:
    detail = f"{lesson.note.category}, lesson {lesson.id}: {added} added, {refused} refused, {whence}"
    audit.record(console.database, visit.person.name, "pictures added", detail)


def _wanted(console: Console, visit: Visit, lesson: Lesson, room: int) -> Wanted:
    """Return which parts of the archive a form asks for. Raises Refused."""
    now, count = console.now_ms(), visit.one("count")
    try:
        kind, most = Kind(visit.one("source")), int(count)
        since, until = (times.parse(text, now) if text else None for text in (visit.one("since"), visit.one("until")))
    except (SetupError, ValueError) as error:
        raise Refused(400, mark("This is no choice of parts."), str(error)) from error
    return Wanted(lesson.note.category, kind, since, until, max(0, min(most, room)))


def _jpeg(body: bytes | None) -> Answer:
    if body is None:
        raise Refused(404, mark("This picture cannot be shown."))
    return Answer(body, "image/jpeg")


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
