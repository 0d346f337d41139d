"""What people may do. Each role may do what the ones before it may."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The role of an account: see the line and all parts; judge parts; change recipes and banks; keep the accounts."""

    SEE = "see"
    REVIEW = "review"
    ENGINEER = "engineer"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Return True if this role may do what needs another one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)
