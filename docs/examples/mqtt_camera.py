"""A camera that sends its pictures to Patchline by MQTT, and loses none. Needs paho-mqtt 2 and nothing else.

    python mqtt_camera.py FOLDER mqtt://USER:PASSWORD@HOST:1883 cameras/press-3/gasket [--v5] [--ca-file FILE]

FOLDER is the spool: `save` writes a picture into it, as TIME.PART.picture, and this program sends what lies there,
oldest first. Files with other names stay, and are said once. A picture leaves the folder when RabbitMQ has confirmed it
(QoS 1). So it survives the end of this program, of the broker, and of the network. Sent twice, it is the same job: its
topic ends with the part and the time.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

WINDOW = 16  # pictures on their way
PATIENCE_S = 10.0  # for a confirmation: RabbitMQ 4 never confirms to MQTT 3.1.1 what a full queue refuses
LOOK_S = 0.02  # between two looks into the folder
RETRY_S = 1.0
ENDING = ".picture"
NAME = re.compile(r"[0-9]{13}\.[A-Za-z0-9_:-]{1,24}\.picture")
NOBODY_LISTENS = 16  # reason code of MQTT 5: no queue is bound to the topic


def save(folder: Path, part_id: str, image: bytes) -> Path:
    """Write a picture into the spool. It is safe when this returns.

    Args:
        folder: the spool.
        part_id: letters, digits and `_:-`, 24 at most. Each part has another one.
        image: PNG, JPEG, BMP, TIFF, WebP, PGM or PPM.
    """
    path = folder / f"{time.time_ns() // 1_000_000:013}.{part_id}{ENDING}"
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.write(image)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    entries = os.open(folder, os.O_RDONLY)
    os.fsync(entries)  # the name, too
    os.close(entries)
    return path


def pictures(folder: Path, strangers: set[str]) -> Iterator[Path]:
    """Yield the pictures of the spool, and say once of each other name what it must look like."""
    for path in folder.iterdir():
        if NAME.fullmatch(path.name):
            yield path
        elif path.suffix != ".part" and path.name not in strangers:
            strangers.add(path.name)
            example = f"{time.time_ns() // 1_000_000}.part-1{ENDING}"
            print(f"{path.name} is not sent: its name must be TIME.PART{ENDING}, as {example}; use `save`", flush=True)


class Connection:
    """One connection to the broker. paho repeats what is not confirmed, but forgets it when its program ends.

    So the spool is what repeats: each connection begins with nothing, and sends what lies in the folder.
    """

    def __init__(self, url: str, topic: str, v5: bool, ca_file: str | None) -> None:
        parts = urlsplit(url)
        self._topic = topic
        self._confirmed: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self._waiting: deque[Path] = deque()  # of one look into the folder, oldest first
        self._sent: dict[int, tuple[Path, float]] = {}  # by message id: the picture, and when it was sent
        self.lost = threading.Event()
        self.failure: str | None = None
        self._open = threading.Event()
        protocol = MQTTv5 if v5 else MQTTv311
        self._client = client = Client(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            client.tls_set_context(ssl.create_default_context(cafile=ca_file))
        client.max_inflight_messages_set(WINDOW)
        client.on_connect = lambda _c, _d, _f, answer, _p: self._on_answer(answer)
        client.on_disconnect = lambda *_: self.lost.set()
        client.on_publish = lambda _c, _d, number, answer, _p: self._confirmed.put((number, _is_kept(answer)))
        client.connect(parts.hostname or "127.0.0.1", parts.port or (8883 if parts.scheme == "mqtts" else 1883), 10)
        client.loop_start()

    def serve(self, folder: Path, strangers: set[str]) -> None:
        """Send what lies in the folder until the connection is lost, or a confirmation does not come.

        Args:
            folder: the spool.
            strangers: names that are no pictures, each of which is said once.
        """
        self._open.wait(PATIENCE_S)
        while not self.lost.is_set() and self._open.is_set():
            self._settle()
            if not self._waiting:
                on_their_way = {path for path, _ in self._sent.values()}
                self._waiting.extend(sorted(set(pictures(folder, strangers)) - on_their_way))
            while self._waiting and len(self._sent) < WINDOW:
                self._send(self._waiting.popleft())
            if any(time.monotonic() - since > PATIENCE_S for _, since in self._sent.values()):
                self.failure = f"a picture was not confirmed within {PATIENCE_S:.0f} s"
                return

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_answer(self, answer) -> None:
        if answer.is_failure:
            self.failure = f"the broker refuses the connection ({answer}); check user and password of the url"
        (self.lost if answer.is_failure else self._open).set()

    def _send(self, path: Path) -> None:
        captured_at, part_id = path.stem.split(".", 1)
        info = self._client.publish(f"{self._topic}/{part_id}/{int(captured_at)}", path.read_bytes(), qos=1)
        self._sent[info.mid] = path, time.monotonic()

    def _settle(self) -> None:
        """Delete what is confirmed. What the broker did not keep is sent again later."""
        try:
            number, is_kept = self._confirmed.get(timeout=LOOK_S)
            while True:
                path, _ = self._sent.pop(number)
                if is_kept:
                    path.unlink()
                else:
                    time.sleep(RETRY_S)
                number, is_kept = self._confirmed.get_nowait()
        except queue.Empty:
            return


def _is_kept(answer) -> bool:  # a reason code; MQTT 3.1.1 knows success only
    return not answer.is_failure and answer.value != NOBODY_LISTENS


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options. What cannot work ends the program, with what to write instead."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("--v5", action="store_true", help="MQTT 5, from RabbitMQ 3.13 on")
    parser.add_argument("--ca-file")
    options = parser.parse_args(words)
    if not options.folder.is_dir():
        parser.error(f"{options.folder}: no such folder; make it, and give it to the program that writes pictures")
    if urlsplit(options.url).scheme not in ("mqtt", "mqtts"):  # the url may hold a password, so it is not shown
        parser.error("the url must begin with mqtt:// or mqtts://, as mqtt://USER:PASSWORD@broker.plant:1883")
    if not set("+#").isdisjoint(options.topic) or "" in options.topic.split("/"):
        parser.error(f"{options.topic}: no topic; write words between slashes, as cameras/press-3/gasket")
    return options


def main() -> None:
    """Send pictures for ever."""
    options = parse()
    strangers: set[str] = set()
    while True:
        try:
            connection = Connection(options.url, options.topic, options.v5, options.ca_file)
        except (OSError, ValueError) as error:
            print(f"the broker cannot be reached ({error}); check the url, and --ca-file for mqtts", flush=True)
        else:
            connection.serve(options.folder, strangers)
            connection.close()
            print(f"{connection.failure or 'connection lost'}, connecting again", flush=True)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
