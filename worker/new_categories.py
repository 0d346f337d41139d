"""Categories that the store has and the configuration does not name: a running worker begins to serve them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from patchline import config
from patchline.banks import fitted
from patchline.banks.served_banks import ServedBanks
from patchline.broker.base import BrokerError
from patchline.protocol.errors import SetupError
from patchline.runtime import connections
from patchline.runtime.queue_keeper import QueueKeeper
from patchline.worker import supply
from patchline.worker.metrics import Metrics
from patchline.worker.supply import Supply

_log = structlog.get_logger(__name__)
MOST = 8  # between two starts of a worker: their prefetch is set aside when it starts


def expected(settings: config.Config, chosen: Collection[str]) -> int:
    """Return how many new categories a worker may get. One that was told which ones to serve gets none."""
    return 0 if chosen or settings.banks.new_categories_like is None else MOST


@dataclass
class NewCategories:
    """Gives a worker its new categories.

    Attributes:
        settings: with `banks.new_categories_like`.
        copies: of the store.
        keeper: of the worker's queues.
        jobs: what its lanes take from.
        suspects: what its lane of suspects takes from.
    """

    settings: config.Config
    copies: ServedBanks
    keeper: QueueKeeper
    jobs: Supply
    suspects: Supply
    metrics: Metrics
    _begun: set[str] = field(default_factory=set)
    _warned: bool = False

    def names(self, served: Collection[str]) -> list[str]:
        """Return the names of active categories that are not served yet. Raises SetupError: the store is away."""
        found = [name for name in fitted.new_categories(self.settings, self.copies) if name not in served]
        room = MOST - len(self._begun)
        if len(found) > room and not self._warned:
            self._warned = True
            _log.error("too many new categories since the start of this worker; restart it", left_out=found[room:])
        return found[:room]

    def prepare(self, name: str) -> None:
        """Make the queues of a category. Raises SetupError."""
        try:
            self.keeper.add(connections.plant(self.settings, [name]))
        except BrokerError as error:
            raise SetupError(f"the queues of {name} cannot be used: {error}") from error

    def begin(self, name: str) -> None:
        """Take the jobs of a category, whose bank is loaded."""
        self._begun.add(name)
        self.metrics.add_category(name)
        supply.add_jobs(self.jobs, name)
        supply.add_suspects(self.suspects, name)
        _log.info("new category is served", category=name)
