"""The archive of a storm: a process, PostgreSQL, a folder of pictures, and what they hold at the end."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from patchline.archive.folder_store import FolderStore
from patchline.archive.opening import PICTURES
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import topology
from patchline.services import server
from patchline.services.postgresql import PostgreSQL

AUDIT = "chaos.audit"
CHANGES = {
    "batch": 50,
    "batch_ms": 50,
    "pictures": {"decisions": ["fail", "review", "expired", "error"], "min_free_bytes": 0},
}
_SETTLE_S, _POLL_S = 90.0, 0.5


@dataclass
class Archive:
    """The archive of a scene. It has a database of its own, and failpoints of its own."""

    postgres: PostgreSQL
    scene: object = None
    process: object = None
    _images: dict = field(default_factory=dict)

    @property
    def failpoints(self):
        return self.scene.failpoints / "archive"

    @property
    def store(self):
        """The folder of the pictures."""
        return self.scene.settings.paths.archive / PICTURES

    def declare_audit(self, amqp_url):
        """Make a queue of all verdicts for the audit: the archive reads the other one."""
        queue = topology.Queue(AUDIT, ((topology.VERDICTS, "#"),), {"x-queue-type": "quorum"})
        with RabbitBroker(amqp_url) as broker:
            broker.declare(topology.Topology(topology.EXCHANGES, (queue,)))

    def start(self):
        self.failpoints.mkdir(exist_ok=True)
        self.process = self.scene.start("archive", "archive")

    def stop(self):
        if self.process is not None:
            server.stop_guarded(self.process)

    def kill(self):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            for child in psutil.Process(self.process.pid).children():
                child.kill()

    def started_again(self):
        """Start the archive again if it has ended. Return False if it still runs."""
        if self.process.poll() is None:
            return False
        server.stop_guarded(self.process)  # closes its pipe
        self.start()
        return True

    def take_store_away(self, seconds):
        """A file lies where the folder of the pictures was, so that nobody makes another one."""
        away = self.store.with_name("away")
        self.store.rename(away)
        self.store.touch()
        time.sleep(seconds)
        self.store.unlink()
        away.rename(self.store)

    def crash_database(self, seconds):
        self.postgres.crash()
        time.sleep(seconds)
        self.postgres.server.start()
        self.postgres.server.wait()

    def reconcile(self, accepted, images):
        """Compare the archive with the accepted jobs, once it holds them or makes no progress any more.

        Args:
            accepted: part ids by job id.
            images: the folder of the images that were sent.

        Returns:
            The counts for the reconciliation.
        """
        before, since = None, time.monotonic()
        while time.monotonic() - since < _SETTLE_S:
            counts = self._count(accepted, Path(images))
            if not (counts["archive_missing"] or counts["rejects_without_picture"]):
                return counts
            if counts != before:
                before, since = counts, time.monotonic()
            time.sleep(_POLL_S)
        return counts

    def _count(self, accepted, images):
        with psycopg.connect(self.postgres.url) as connection:
            rows = connection.execute("SELECT job_id, part_id, decision FROM verdicts").fetchall()
            pictures = dict(connection.execute("SELECT job_id, digest FROM pictures WHERE kind = 'image'").fetchall())
        store = FolderStore(self.store, 0)
        parts = Counter(part for _, part, _ in rows)
        rejects = [(job, part) for job, part, decision in rows if decision != "pass"]
        return {
            "archive_rows": len(rows),
            "archive_missing": len(accepted.keys() - {job for job, _, _ in rows}),
            "archive_double": sum(count > 1 for count in parts.values()),
            "archive_rejects": len(rejects),
            "rejects_without_picture": sum(
                not self._is_stored(store, pictures.get(job), images / f"{part}.png") for job, part in rejects
            ),
        }

    def _is_stored(self, store, digest, image):
        """Return True if the store has the picture that was sent. What was compared once is not read again."""
        if digest is None:
            return False
        if (digest, image) not in self._images:
            self._images[digest, image] = store.get(digest) == image.read_bytes()
        return self._images[digest, image]
