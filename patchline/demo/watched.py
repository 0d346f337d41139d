"""The console of a demo: people watch the line in the browser while it runs, and look at its parts afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline import config
from patchline.demo.processes import Processes, wait_until_ready
from patchline.runtime import signals
from patchline.services import server
from patchline.trial import ports
from patchline.trial.plant import address


@dataclass(frozen=True)
class Watch:
    """Shows a demo in the browser.

    Attributes:
        account: makes the first account for a configuration file, and returns its name and password; None: there is
            an account already.
    """

    account: Callable[[Path], tuple[str, str] | None]

    @contextmanager
    def console(self, settings: config.Config, processes: Processes) -> Iterator[None]:
        """Run the console until the block ends. The archive has to run. Raises SetupError if it does not start."""
        wanted = {"pages": settings.console.port, "probes": 0}
        chosen = ports.choose(wanted, ports.is_free, server.free_ports)
        options = ("--port", str(chosen["pages"]), "--metrics-port", str(chosen["probes"]))
        with processes.running("console", "patchline", "console", *options):
            wait_until_ready([chosen["probes"]], "console")
            made = self.account(processes.out / "config.yaml")
            print(f"console: open {address(settings.console, chosen['pages'])} in a browser", flush=True)
            if made is not None:
                print("console: name {}, password {}".format(*made), flush=True)
            yield


def stay(stop: threading.Event | None = None) -> None:
    """Keep everything running until Ctrl-C, or until `stop` is set."""
    print("the console stays; Ctrl-C ends all", flush=True)
    if stop is not None:
        stop.wait()
        return
    with signals.stop_event() as interrupted:
        interrupted.wait()
