"""The threads of a worker share a heap."""

import subprocess
import sys

COUNT_HEAPS = """
import ctypes, sys, threading
from patchline.runtime import heap
if sys.argv[1] == "shared":
    heap.share(1)
together = threading.Barrier(9)
def allocate():
    picture = bytes(100_000)
    together.wait()
    together.wait()
for _ in range(8):
    threading.Thread(target=allocate).start()
together.wait()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
together.wait()
"""


def test_threads_share_one_heap():
    def heaps(how):
        command = [sys.executable, "-c", COUNT_HEAPS, how]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.count("<heap nr=")

    assert heaps("shared") == 1
    assert heaps("as they are") > 1
