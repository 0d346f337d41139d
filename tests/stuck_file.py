"""A file whose opening puts a process into uninterruptible sleep (state D), as the driver of a hanging chip does.

The file is a FUSE file system of its own, which this process serves (/dev/fuse, linux/fuse.h). It answers everything
but the request to open the file. Once the kernel has handed over such a request, it waits for the answer without
bounds, and SIGKILL does not end the process that waits.
"""

import contextlib
import ctypes
import errno
import os
import struct
import threading

import pytest

_GETATTR, _OPEN, _INIT = 3, 14, 26  # operations, and those without an answer:
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42
_IN, _OUT = struct.Struct("<IIQQ"), struct.Struct("<IiQ")  # length, operation, id, node; length, error, id
_DETACH = 2  # umount2(2), MNT_DETACH


class StuckFile:
    """A file at `path` that cannot be opened until `release` is called. Needs root."""

    def __init__(self, folder):
        self.path = folder / "stuck"
        self.path.touch()
        self._waiting = []
        self._released = False
        self.in_use = threading.Event()  # a process sleeps
        self._lock = threading.Lock()
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            pytest.skip(f"a process in uninterruptible sleep needs /dev/fuse: {error.strerror}")
        self._libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self._device},rootmode=100644,user_id={os.getuid()},group_id={os.getgid()}"
        if self._libc.mount(b"patchline", str(self.path).encode(), b"fuse", 0, options.encode()):
            os.close(self._device)
            pytest.skip(f"a process in uninterruptible sleep needs root: {os.strerror(ctypes.get_errno())}")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def release(self):
        """Refuse to open the file, now and later. The processes that sleep wake up, and a killed one ends."""
        with self._lock:
            self._released = True
            for request in self._waiting:
                self._answer(request, error=errno.EIO)
            self._waiting = []

    def close(self):
        """Release the file, and take the file system away."""
        self.release()
        self._libc.umount2(str(self.path).encode(), _DETACH)
        self._thread.join(10)
        os.close(self._device)

    def _serve(self):
        with contextlib.suppress(OSError):  # ENODEV: it was unmounted
            while True:
                message = os.read(self._device, 1 << 20)
                _, operation, request, _ = _IN.unpack_from(message)
                self._serve_one(operation, request)

    def _serve_one(self, operation, request):
        if operation == _INIT:
            self._answer(request, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0))
        elif operation == _GETATTR:
            inode = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o100644, 1, 0, 0, 0, 4096, 0)
            self._answer(request, struct.pack("<QII", 0, 0, 0) + inode)
        elif operation == _OPEN:
            with self._lock:
                if self._released:
                    self._answer(request, error=errno.EIO)
                else:
                    self._waiting.append(request)
                    self.in_use.set()
        elif operation not in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            self._answer(request, error=errno.ENOSYS)

    def _answer(self, request, body=b"", error=0):
        os.write(self._device, _OUT.pack(_OUT.size + len(body), -error, request) + body)
