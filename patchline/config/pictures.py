"""Which pictures the archive keeps, where, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from patchline.config.base import Count, Endpoint, Section, is_bucket

Days = Annotated[float | None, Field(gt=0)]
Decision = Literal["pass", "review", "fail", "expired", "error"]
_KEEP_DAYS: dict[Decision, float | None] = {
    "pass": 30.0,
    "review": 365.0,
    "fail": 365.0,
    "expired": 365.0,
    "error": 365.0,
}


class Pictures(Section):
    """The pictures of the archive. Workers send those of `decisions`, and a share of the passes.

    An empty store is the folder `pictures` in `paths.archive`. Pictures of a decision are kept for its `keep_days`, or
    if they are None, until `max_bytes` asks for their place.
    """

    decisions: tuple[Literal["review", "fail", "expired", "error"], ...] = Field(default=(), strict=False)
    pass_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    store: str = ""
    endpoint: Endpoint = None
    region: str = "us-east-1"
    batch: Annotated[int, Field(ge=1, le=1000)] = 8
    max_bytes: Count = 20_000_000_000
    min_free_bytes: Annotated[int, Field(ge=0)] = 2_000_000_000
    keep_days: dict[Decision, Days] = Field(default_factory=_KEEP_DAYS.copy)

    @property
    def sent(self) -> bool:
        """Workers send pictures."""
        return bool(self.decisions) or self.pass_share > 0

    @pydantic.field_validator("keep_days")
    @classmethod
    def _complete(cls, days: dict[Decision, float | None]) -> dict[Decision, float | None]:
        return _KEEP_DAYS | days

    @pydantic.field_validator("store")
    @classmethod
    def _is_bucket(cls, store: str) -> str:
        if store and not is_bucket(store):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/FOLDER, or empty for a folder in paths.archive")
        return store
