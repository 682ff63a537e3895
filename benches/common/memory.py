"""The memory of processes, and its peak during an operation."""

import pathlib
import re
import threading

SAMPLE_SECONDS = 0.01

MIB = 1 << 20
GIB = 1 << 30


def available():
    """Bytes of available memory on this machine."""
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024


def _kilobytes(path, field):
    """A field of a file in /proc, converted from kB to bytes."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0  # the process has ended
    return int(found[1]) * 1024 if found else 0


def own(pid):
    """Bytes of anonymous memory and page tables. Pages shared with a child count for both. Reads counters: cheap."""
    status = pathlib.Path(f"/proc/{pid}/status")
    return _kilobytes(status, "RssAnon") + _kilobytes(status, "VmPTE")


def share(pid):
    """The same, but shared pages are divided among the processes. The kernel walks all page tables: expensive."""
    folder = pathlib.Path(f"/proc/{pid}")
    return _kilobytes(folder / "smaps_rollup", "Pss_Anon") + _kilobytes(folder / "status", "VmPTE")


def children(pid):
    """The process ids of the children."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Peak:
    """Samples `measure` during a `with`: its maximum, and how much that is above its value before."""

    def __init__(self, measure):
        self.measure = measure
        self.before = self.most = measure()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _watch(self):
        while not self.over.wait(SAMPLE_SECONDS):
            self.most = max(self.most, self.measure())

    @property
    def extra(self):
        """The maximum minus the value before, in bytes."""
        return self.most - self.before
