"""The line as it runs: parts and rejects as they come, how many a minute, and what the processes say."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from patchline.archive.base import Record
from patchline.console import words
from patchline.console.context import Console
from patchline.console.templates import clock, score
from patchline.console.texts import mark
from patchline.console.visit import Refused, Reply, Stream, Visit
from patchline.protocol.errors import SetupError

_LOOK_S = 0.1
_STATE_S, _SESSION_S = 1.0, 5.0
_STREAM_S = 900.0  # then the browser asks again, which one that does not read cannot
_MOST_STREAMS = 8  # of a log-in; a browser has six connections
_AGAIN = b"retry: 500\n\n"  # milliseconds
_FIRST = 60  # parts that a browser gets at once


def show(console: Console, visit: Visit) -> Reply:
    """Show the page, which then listens."""
    takes_pictures = console.hand_in is not None
    return console.templates.render("line.html", visit, line=visit.one("line"), takes_pictures=takes_pictures)


def listen(console: Console, visit: Visit) -> Reply:
    """Send parts and states, until the browser goes or the log-in ends."""
    last = visit.one("last-event-id")
    number = int(last) if last.isdecimal() and len(last) < 16 else 0
    if console.live.watching(visit.person.token) >= _MOST_STREAMS:
        raise Refused(429, mark("This log-in has too many live pages. Close some."))
    return Stream(_watched(console, visit, console.live.last(number)))


async def _watched(console: Console, visit: Visit, last: int) -> AsyncIterator[bytes]:
    with console.live.counted(visit.person.token):
        yield _AGAIN
        async for event in events(console, visit, last):
            yield event


async def events(console: Console, visit: Visit, last: int) -> AsyncIterator[bytes]:
    """Yield server-sent events: `parts`, `state` each second, and `end` when the log-in has ended.

    Args:
        console: the neighbours.
        visit: of the person.
        last: the number of the last part that the browser has; it gets those that came since.
    """
    said_at = asked_at = began_at = time.monotonic()
    while not console.live.ended and time.monotonic() - began_at < _STREAM_S:
        found = console.live.after(last)
        if found:
            found = found if last else found[-_FIRST:]
            last = found[-1][0]
            yield _event("parts", [_part(console, visit, record) for _, record in found], last)
        now = time.monotonic()
        if now - asked_at >= _SESSION_S:
            asked_at = now
            if not await asyncio.to_thread(_is_logged_in, console, visit):
                yield _event("end", {})
                return
        if now >= said_at:
            said_at = now + _STATE_S
            yield _event("state", _state(console, visit))
        await asyncio.sleep(_LOOK_S)


def _is_logged_in(console: Console, visit: Visit) -> bool:
    try:
        return console.sessions.find(visit.person.token, used=False) is not None
    except SetupError:
        return False


def _part(console: Console, visit: Visit, record: Record) -> dict[str, object]:
    say = console.templates.say
    return {
        "job": record.job_id,
        "part": record.part_id,
        "line": record.line,
        "category": record.category,
        "decision": record.decision,
        "word": say(visit, words.DECISIONS.get(record.decision, record.decision)),
        "score": score(record.score),
        "at": clock(record.decided_at),
    }


def _state(console: Console, visit: Visit) -> dict[str, object]:
    say = console.templates.say
    processes = [
        {
            "name": state.name,
            "host": state.host,
            "line": state.line,
            "state": state.state,
            "role": say(visit, words.PROCESSES.get(state.role, state.role)),
            "word": say(visit, words.STATES.get(state.state, state.state)),
            "heard_s": round(state.heard_s),
        }
        for state in console.states.all()
    ]
    return {"rates": console.live.rates(), "processes": processes, "archive": not console.live.failure}


def _event(name: str, value: object, number: int | None = None) -> bytes:
    identity = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{identity}data: {json.dumps(value)}\n\n".encode()
