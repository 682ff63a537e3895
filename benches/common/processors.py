"""On which processors processes run."""

import os
import pathlib


def own():
    """Those that we may use, in order."""
    return sorted(os.sched_getaffinity(0))


def pin(pid, processors):
    """All threads of a process; those to come have it from them."""
    done = set()
    while True:
        threads = {int(path.name) for path in pathlib.Path(f"/proc/{pid}/task").iterdir()} - done
        if not threads:
            return
        for thread in threads:
            try:
                os.sched_setaffinity(thread, processors)
            except ProcessLookupError:
                pass  # It has ended: one of a connection that was closed.
        done |= threads


def run(stage, command, processors):
    """Runs a program to its end there; returns what it wrote."""
    everywhere = os.sched_getaffinity(0)
    # A child has them from its parent, from its first instruction on.
    os.sched_setaffinity(0, processors)
    try:
        _, text = stage.run([str(word) for word in command], lambda _: os.sched_setaffinity(0, everywhere))
    finally:
        os.sched_setaffinity(0, everywhere)
    return text
