"""What the pages need of a plant's log-in service, without its libraries."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from patchline.console.roles import Role
from patchline.protocol.errors import SetupError

_MOST, _LONGEST_MS = 1_000, 600_000


class ProviderAway(SetupError):
    """The provider does not answer, or not as one does."""


class LogInRefused(SetupError):
    """The provider, or what it says, lets nobody in."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A log-in on its way.

    Attributes:
        url: the page of the provider.
        state, nonce, verifier: must come back, be in the token, and go with the code.
    """

    url: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider names. `subject` is one person for ever, while a name may be given anew."""

    subject: str
    name: str
    role: Role


class Provider(Protocol):
    """The log-in service of a plant."""

    def begin(self) -> Begun:
        """Begin a log-in. Raises ProviderAway."""

    def finish(self, begun: Begun, state: str, code: str, error: str) -> Person:
        """Return who has logged in. Raises ProviderAway and LogInRefused.

        Args:
            begun: what this browser has begun.
            state: with which the provider has sent the browser back; it must be that of `begun`.
            code: likewise, for the provider to say who it is; empty if it refuses.
            error: likewise, why it refuses; empty if it does not.
        """

    def end_url(self) -> str | None:
        """Return the page that ends the log-in at the provider, or None if it has none. Raises ProviderAway."""


class Waiting:
    """The log-ins that people are about to finish at the provider, for ten minutes. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, tuple[int, Begun, str]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, now_ms: int, begun: Begun, to: str) -> str:
        """Keep one, with the page that the person wanted. Return the token of the browser."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._waiting[token] = (now_ms, begun, to)
            while len(self._waiting) > _MOST:
                self._waiting.popitem(last=False)
        return token

    def take(self, now_ms: int, token: str) -> tuple[Begun, str] | None:
        """Return one, once; None if there is none, or if it is too old."""
        with self._lock:
            found = self._waiting.pop(token, None)
        return None if found is None or abs(now_ms - found[0]) > _LONGEST_MS else found[1:]
