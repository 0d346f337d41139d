"""The threads of a worker share a heap, and what is not needed any more returns to the system."""

import mmap
import subprocess
import sys
from pathlib import Path

from patchline.devices import mapped_file

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


FREE = """
from pathlib import Path
from patchline.runtime import heap
def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
pictures = [bytes(100_000) for _ in range(400)]
del pictures[::2], pictures[:-1]  # the last one keeps the heap from becoming shorter
freed = resident_pages()
heap.trim()
print(freed - resident_pages())
"""


def test_what_was_freed_between_blocks_that_are_in_use_returns_to_the_system():
    command = [sys.executable, "-c", FREE]
    pages = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert pages * mmap.PAGESIZE > 20_000_000


def resident_kb(path):
    """How much of a mapped file is in the memory of this process."""
    mappings = Path("/proc/self/smaps").read_text().split(f"{path}\n")[1:]
    return sum(int(mapping.split("Rss:")[1].split()[0]) for mapping in mappings)


def test_a_mapped_file_leaves_the_memory_of_the_process_and_can_be_read_again(tmp_path):
    path, content = tmp_path / "weights of a model.bin", bytes(range(256)) * 4096
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == content
        assert resident_kb(path) == len(content) // 1024
        mapped_file.let_go(path)
        assert resident_kb(path) == 0
        assert mapped[:] == content


def test_a_mapping_that_was_changed_keeps_its_changes(tmp_path):
    path = tmp_path / "changed.bin"
    path.write_bytes(bytes(4096))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:5] = b"mine!"
        mapped_file.let_go(path)
        assert mapped[:5] == b"mine!"
