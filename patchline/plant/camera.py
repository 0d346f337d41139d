"""The camera of a simulated belt, as a process: it sends the picture of each part that the PLC triggers.

    python -m patchline.plant.camera --config config.yaml --line press-3 --category bottle --port 1503

A trigger is a datagram on loopback: if the camera is dead, it is lost, as a pulse on a wire is. Whoever sends an empty
one learns whether the camera is there.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
from pathlib import Path

from patchline.publisher.client import Client, NotAcceptedError
from patchline.publisher.job_state import JobState
from patchline.runtime import signals

_HOST = "127.0.0.1"
_MAX_BYTES = 4096


def main() -> None:
    """Run the process."""
    arguments = _arguments()
    with (
        signals.stop_event() as stop,
        socket.socket(type=socket.SOCK_DGRAM) as triggers,
        Client.connect(arguments.config, arguments.line, arguments.category, _print_refused) as client,
    ):
        triggers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        triggers.bind((_HOST, arguments.port))
        triggers.settimeout(0.2)
        serve(client, triggers, arguments.deadline_ms, stop)


def serve(client: Client, triggers: socket.socket, deadline_ms: int, stop: threading.Event) -> None:
    """Send the picture of each trigger until `stop` is set."""
    while not stop.is_set():
        try:
            datagram = triggers.recv(_MAX_BYTES)
        except TimeoutError:
            continue
        if not datagram:
            continue
        shot = json.loads(datagram)
        try:
            client.send(
                Path(shot["picture"]).read_bytes(),
                f"n{shot['number']}",
                captured_at=shot["captured_at"],
                deadline_ms=deadline_ms,
                number=shot["number"],
                encoder_count=shot["count"],
            )
        except NotAcceptedError:
            return


def _print_refused(job_id: str, state: JobState, reason: str | None) -> None:
    if state is JobState.REFUSED:
        sys.stderr.write(f"job {job_id} is refused: {reason}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m patchline.plant.camera", description="A camera for triggers.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--line", required=True)
    parser.add_argument("--category", required=True)
    parser.add_argument("--port", type=int, required=True, help="UDP port on loopback for triggers")
    parser.add_argument("--deadline-ms", type=int, required=True, help="time for a verdict, from the trigger")
    return parser.parse_args()


if __name__ == "__main__":
    main()
