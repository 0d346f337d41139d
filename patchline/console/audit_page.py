"""Who has changed what."""

from __future__ import annotations

from patchline.console import audit
from patchline.console.context import Console
from patchline.console.visit import Reply, Visit

_MOST = 500


def show(console: Console, visit: Visit) -> Reply:
    """Show the latest entries of the audit log."""
    return console.templates.render("audit.html", visit, entries=audit.latest(console.database, _MOST))
