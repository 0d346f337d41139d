"""The console in the browser: where it listens, and how long a log-in lasts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, Field, StringConstraints

from patchline.config.base import Count, File, Port, Section
from patchline.protocol import messages

_TIME = r"([01]\d|2[0-3]):[0-5]\d"
Hours = Annotated[str, StringConstraints(pattern=f"^{_TIME}-{_TIME}$")]
RoleName = Literal["see", "review", "engineer", "admin"]


def _for_tokens(url: str) -> str:
    """Refuse a url over which somebody could read or change tokens: only loopback needs no https."""
    if re.fullmatch(r"(https://[^/@\s?#]+|http://(127\.0\.0\.1|localhost)(:\d+)?)(/[^\s?#]*)?", url) is None:
        raise ValueError("must be https://HOST, without a user, question mark or number sign")
    return url.rstrip("/")


SafeUrl = Annotated[str, AfterValidator(_for_tokens)]


class Oidc(Section):
    """Log-ins with the accounts of a plant (OpenID Connect Core 1.0, with the authorization code flow).

    Attributes:
        issuer: of the provider, as it names itself.
        client_id: of the console at the provider.
        client_secret_file: its first line; None: a public client, which PKCE protects.
        console_url: where browsers reach the console, with its prefix; the provider sends them to `/oidc/back` there.
        ca_file: of the authority of the provider's certificate, if it is one of the plant.
        scopes: asked for, beside openid.
        name_claim: what becomes the name of the account.
        role_claim: has the groups or roles of a person, as a text or a list.
        roles: the role of each of them; the highest counts.
        default_role: of people without any of them; None: they are refused.
    """

    issuer: SafeUrl
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret_file: File = None
    console_url: SafeUrl
    ca_file: File = None
    scopes: Annotated[tuple[str, ...], Field(strict=False)] = ("profile",)
    name_claim: str = "preferred_username"
    role_claim: str = "groups"
    roles: dict[str, RoleName] = Field(default_factory=dict)
    default_role: RoleName | None = None

    def below(self, folder: Path) -> Oidc:
        """Return the section with its files below a folder."""
        files = {"client_secret_file": self.client_secret_file, "ca_file": self.ca_file}
        return self.model_copy(update={name: file and folder / file for name, file in files.items()})


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
        oidc: log-ins with the accounts of a plant; None: passwords only.
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
    oidc: Oidc | None = None
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
        oidc = {"oidc": self.oidc and self.oidc.below(folder)}
        return self.model_copy(update={name: file and folder / file for name, file in files.items()} | oidc)
