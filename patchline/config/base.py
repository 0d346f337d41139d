"""What the sections of the configuration are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import AfterValidator, Field

from patchline.protocol import messages, server_url
from patchline.protocol.errors import SetupError


def _without_password(url: str) -> str:
    if server_url.has_password(url):
        raise ValueError("contains a password; set the url with an environment variable instead (see config.yaml)")
    try:
        server_url.check(url)
    except SetupError as error:
        raise ValueError(str(error)) from None
    return url


def _with_one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"{pattern!r} must have one pair of parentheses around the name of the part, not {groups}")
    return pattern


def is_bucket(url: str) -> bool:
    """Return True if a url names a bucket of S3, or a folder in one."""
    return re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=/-]*)?", url) is not None


def _without_user(endpoint: str | None) -> str | None:
    if endpoint is not None and re.fullmatch(r"https?://[^/@\s]+/?", endpoint) is None:
        raise ValueError("must be https://HOST:PORT, without a user")
    return endpoint


Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
File = Annotated[Path | None, Field(strict=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Url = Annotated[str, AfterValidator(_without_password)]
Endpoint = Annotated[str | None, AfterValidator(_without_user)]
Pattern = Annotated[str, AfterValidator(_with_one_group)]


class Section(messages.Frozen):
    """A part of the configuration: immutable, with strict types."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
