"""Forks Patchline's commands for the tests: this process has imported what they import, and has one thread.

`tests/forked.py` starts it, and sends a request for each command over the socket on standard input: a message of JSON
with files for the input, the output, the errors and the end of the command. The process id, and after the end the exit
code, are lines in the last of these.
"""

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

# What most commands import when they run.
import patchline.archive.process
import patchline.banks.fit
import patchline.cli.main
import patchline.devices.openvino_backbone
import patchline.evaluation.evaluate
import patchline.gate.process
import patchline.publisher.process
import patchline.worker.process  # noqa: F401

LARGEST = 1 << 20  # bytes of a request
READY = b"ready"  # sent once, when this process can be forked


def serve(requests):
    """Fork for each request. Return the request in the fork, and None in this process when no more requests come."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not requests:
                _report_end(selector, key)
                continue
            message, files, _, _ = socket.recv_fds(requests, LARGEST, 4)
            if not message:
                return None
            request = json.loads(message)
            pid = os.fork()
            if pid == 0:
                _close(selector, requests)
                _take(files)
                return request
            for file in files[:3]:
                os.close(file)
            _write(files[3], pid)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, files[3]))


def _report_end(selector, key):
    """Write the exit code of a command that has ended."""
    pid, ended = key.data
    selector.unregister(key.fileobj)
    os.close(key.fileobj)
    _write(ended, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.close(ended)


def _write(file, number):
    with suppress(BrokenPipeError):  # nobody waits for the command any more
        os.write(file, b"%d\n" % number)


def _close(selector, requests):
    """Close what a command does not inherit."""
    for key in list(selector.get_map().values()):
        if key.fileobj is not requests:
            os.close(key.fileobj)
            os.close(key.data[1])
    selector.close()
    requests.close()


def _take(files):
    """Use the files of a request as standard input, output and errors."""
    for target, file in enumerate(files[:3]):
        os.dup2(file, target)
    for file in files:
        os.close(file)


def main():
    requests = socket.socket(fileno=os.dup(0))
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        sys.exit(f"{threads} threads after the imports: a fork would lose them")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, and that ends this process
    gc.collect()
    gc.freeze()
    requests.send(READY)
    request = serve(requests)
    if request is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]  # as for `python -m`
    sys.argv = ["-m", *request["arguments"]]
    runpy.run_module("patchline", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
