"""The console in the browser: where it listens, and how long a log-in lasts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field, StringConstraints

from patchline.config.base import Count, File, Port, Section
from patchline.protocol import messages

_TIME = r"([01]\d|2[0-3]):[0-5]\d"
Hours = Annotated[str, StringConstraints(pattern=f"^{_TIME}-{_TIME}$")]


class Teach(Section):
    """What people may gather to teach a category. A lesson that nobody touches for `keep_days` is deleted."""

    max_pictures: Annotated[int, Field(ge=1, le=5_000)] = 1_000
    max_bytes: Count = 4_000_000_000
    keep_days: Count = 30


class Console(Section):
    """The console.

    Attributes:
        host: the address to listen on.
        prefix: the path under which a proxy shows it, such as /patchline; every request has it.
        database: the file with accounts, log-ins and the audit log, relative to that of the configuration.
        cert_file: for https without a proxy, with `key_file`.
        behind_https: browsers reach it through a proxy by https, and must not send cookies otherwise.
        idle_minutes: a log-in ends this long after the last page.
        session_hours: and at last this long after its beginning.
        searches_per_minute: how many pages that ask much of the archive's database a person gets, half of them at once.
        changes_per_minute: how much a person may send, such as judgements, half of it at once.
        language: for browsers that ask for none of those that there are.
        defect_kinds: names to choose from in the review; others can be written.
        trace_url: the address of a trace in the plant's viewer, with {trace} in the place of its id; empty: no link.
        teach: limits of each lesson.
        time_zone: of the plant, such as Europe/Berlin; empty: that of the console's host.
        shifts: when each of them begins and ends by the clock of the plant, such as 22:00-06:00.
    """

    host: str = "127.0.0.1"
    port: Port = 8420
    prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_-]{1,63})*$")] = ""
    database: Annotated[Path, Field(strict=False)] = Path("console/console.sqlite")
    cert_file: File = None
    key_file: File = None
    behind_https: bool = False
    idle_minutes: Count = 60
    session_hours: Count = 12
    searches_per_minute: Count = 60
    changes_per_minute: Count = 240
    language: Literal["en", "de", "zh"] = "en"
    defect_kinds: Annotated[tuple[messages.Name, ...], Field(strict=False, max_length=9)] = ()
    trace_url: Annotated[str, Field(pattern=r"^(https?://\S*\{trace\}\S*)?$")] = ""
    teach: Teach = Teach()
    time_zone: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*)?$")] = ""
    shifts: Annotated[dict[messages.Name, Hours], Field(max_length=9)] = Field(default_factory=dict)

    @property
    def uses_https(self) -> bool:
        """Browsers reach it by https."""
        return self.behind_https or self.cert_file is not None

    @pydantic.model_validator(mode="after")
    def _certificate_has_a_key(self) -> Console:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; set both, or neither")
        return self

    def below(self, folder: Path) -> Console:
        """Return the section with its files below a folder."""
        files = {"database": self.database, "cert_file": self.cert_file, "key_file": self.key_file}
        return self.model_copy(update={name: file and folder / file for name, file in files.items()})
