"""The loop of a process that speaks to cameras. Run by a Python that has the library of a host, and need not have
Patchline:

    python -I host_loop.py aravis_host.py

One request at a time on the standard input, a line of JSON. The answer on the standard output is a line of JSON, and
after it as many bytes of a frame as its `size` says. It ends with its input. Only the standard library is used here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import traceback
from typing import Any


def main() -> None:
    """Answer requests with the methods of the host, until the input ends. The file of the host is the argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Patchline, which ends this process by its input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    try:
        module = _load(sys.argv[1])
    except Exception as error:  # noqa: BLE001 - such as ImportError; for a library that is missing, gi raises another
        for _ in sys.stdin:
            _send(answers, {"error": "missing", "text": f"{sys.executable}: {error}"})
        return
    host = module.Host()
    for line in sys.stdin:
        _send(answers, *_answer(module, host, line))
    host.close()


def _answer(module: Any, host: Any, line: str) -> tuple[dict[str, Any], bytes]:
    """Return the answer to a request, and the bytes that follow it. Whatever a library raises is said, and no end."""
    try:
        request = json.loads(line)
        answer = getattr(host, request.pop("call"))(**request) or {}
        return answer if isinstance(answer, tuple) else (answer, b"")
    except module.LOST as error:
        return {"error": "lost", "text": getattr(error, "message", None) or str(error)}, b""
    except Exception as error:  # noqa: BLE001 - the reason must reach the log of the line
        traceback.print_exc()
        return {"error": "lost", "text": f"{type(error).__name__}: {error}"}, b""


def _send(answers: Any, answer: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n" + data)
    answers.flush()


def _load(path: str) -> Any:
    """Return the module of a host: a class `Host`, and `LOST`, the errors which mean that the camera is gone."""
    spec = importlib.util.spec_from_file_location("host", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
