"""Secrets from environment variables, or from the files that these name."""

from __future__ import annotations

import os
from pathlib import Path

from patchline.protocol import server_url
from patchline.protocol.errors import SetupError


def secret(name: str) -> str | None:
    """Return a secret from the environment variable `name`, or from the file that `<name>_FILE` names.

    Returns:
        None if neither variable is set.

    Raises:
        SetupError: both variables are set, or the file cannot be read.
    """
    value, file = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if file is None:
        return None if value is None else value.strip()  # a secret of Kubernetes may end with the line of its file
    if value is not None:
        raise SetupError(f"{name} and {name}_FILE are both set; unset one")
    return read(Path(file), f"named by {name}_FILE")


def read(path: Path, purpose: str) -> str:
    """Return the text of a file with a secret. Raise SetupError, which names its purpose, if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}, {purpose}: cannot be read ({type(error).__name__})") from error


def url_from_environment(name: str) -> str | None:
    """Return the url in a variable, or in the file of `<name>_FILE`. Raises SetupError if it cannot be used."""
    url = secret(name)
    try:
        server_url.check(url or "")
    except SetupError as error:
        raise SetupError(f"{name}: {error}") from None
    return url
