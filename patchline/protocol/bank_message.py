"""News of the store of memory banks, as versioned JSON. It says where to look: what is active, the store says."""

from __future__ import annotations

import pydantic

from patchline.protocol.messages import Digest, EpochMs, Name

BANK_TYPE = "patchline.bank.v1"


class BankNews(pydantic.BaseModel):
    """A version of a category's memory bank is active from now on. Nobody waits for it, and it may be lost.

    Attributes:
        category: of the bank.
        version: the SHA-256 of its manifest.
        sent_at: epoch milliseconds.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    category: Name
    version: Digest
    sent_at: EpochMs

    def to_json(self) -> bytes:
        """Return the news as UTF-8 JSON."""
        return self.model_dump_json().encode()
