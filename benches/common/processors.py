"""Assigns processes to processors."""

import os
import pathlib


def own():
    """The processors that this process may use, in order."""
    return sorted(os.sched_getaffinity(0))


def pin(pid, processors):
    """Sets the affinity of all threads of a process. New threads inherit it."""
    done = set()
    while True:
        threads = {int(path.name) for path in pathlib.Path(f"/proc/{pid}/task").iterdir()} - done
        if not threads:
            return
        for thread in threads:
            try:
                os.sched_setaffinity(thread, processors)
            except ProcessLookupError:
                pass  # the thread of a closed connection has ended
        done |= threads


def run(stage, command, processors):
    """Runs a program on these processors to its end. Returns its output."""
    everywhere = os.sched_getaffinity(0)
    # A child inherits the affinity of its parent, from its first instruction on.
    os.sched_setaffinity(0, processors)
    try:
        _, text = stage.run([str(word) for word in command], lambda _: os.sched_setaffinity(0, everywhere))
    finally:
        os.sched_setaffinity(0, everywhere)
    return text
