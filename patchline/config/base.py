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


Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
File = Annotated[Path | None, Field(strict=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Url = Annotated[str, AfterValidator(_without_password)]
Pattern = Annotated[str, AfterValidator(_with_one_group)]


class Section(messages.Frozen):
    """A part of the configuration: immutable, with strict types."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
