"""Passwords are kept as hashes of Argon2id (RFC 9106, section 4, its second choice: 64 MiB). The only argon2 user."""

from __future__ import annotations

import secrets
import threading

import argon2

from patchline.protocol.errors import SetupError

_MEMORY_KIB, _PASSES, _LANES = 65_536, 3, 4
SHORTEST, LONGEST = 10, 200
# Nothing that people confuse when they read it aloud or type it: 31 letters and digits, in four groups of four.
_LETTERS, _GROUPS, _GROUP = "abcdefghjkmnpqrstuvwxyz23456789", 4, 4


def made_up() -> str:
    """Return a password of 79 random bits for somebody who chooses another one at once."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))


class Passwords:
    """Hashes and compares passwords, one at a time: many log-ins at once must not take the memory of the line.

    Args:
        memory_kib: of one hash, in KiB.
        passes: over that memory.
    """

    def __init__(self, memory_kib: int = _MEMORY_KIB, passes: int = _PASSES) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=_LANES)
        self._lock = threading.Lock()
        self._of_nobody = self._hasher.hash("nobody has this password")

    def hash(self, password: str) -> str:
        """Return the hash of a new password.

        Raises:
            SetupError: it is too short or too long.
        """
        if not SHORTEST <= len(password) <= LONGEST:
            raise SetupError(f"a password has {SHORTEST} to {LONGEST} characters; this one has {len(password)}")
        with self._lock:
            return self._hasher.hash(password)

    def is_right(self, hashed: str | None, password: str) -> bool:
        """Compare a password with a hash. None, of an account that does not exist, takes as long and is False."""
        with self._lock:
            try:
                right = self._hasher.verify(hashed or self._of_nobody, password[:LONGEST])
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return False
        return right and hashed is not None
