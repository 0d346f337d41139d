"""What a trial remembers of its last start, in a file: ports, the name of the RabbitMQ node, the console's address."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchline.protocol.errors import SetupError
from patchline.runtime import disk


@dataclass
class Memory:
    """The file. Without it, a RabbitMQ would not find its data.

    Attributes:
        file: its path.
        node: the name of the node of RabbitMQ; empty: there was none.
        ports: by name.
        console: the address of the pages.
    """

    file: Path
    node: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    console: str = ""

    def save(self) -> None:
        """Write the file, all or nothing. Raises SetupError if that is not possible."""
        text = json.dumps({"node": self.node, "ports": self.ports, "console": self.console}, indent=2)
        try:
            disk.replace_file(self.file, text.encode() + b"\n", 0o644)
        except OSError as error:
            raise disk.unwritable(self.file, error) from error


def read(file: Path) -> Memory:
    """Read the file; a new memory if it is missing.

    Raises:
        SetupError: it cannot be read, or is no such file.
    """
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        ports = {str(name): int(port) for name, port in values["ports"].items()}
        return Memory(file, str(values["node"]), ports, str(values["console"]))
    except FileNotFoundError:
        return Memory(file)
    except OSError as error:
        raise SetupError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        advice = "it names the data of RabbitMQ: restore it, or move its folder away and lose what waits there"
        raise SetupError(f"{file}: is damaged ({error}); {advice}") from error
