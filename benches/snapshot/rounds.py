"""Measures a system under load: how long its writers wait, and how much memory a snapshot takes."""

import time

from load import Load
from memory import Peak

# Writes per second of each writer, when both systems must have the same load. Neither is then at
# its limit, and both copy as many pages in the same time.
RATE = 4000

# Seconds from the opening of a window to the snapshot: a request belongs to the window in which it
# began, and the snapshot may block requests from its first instant on.
LEAD_IN = 0.05


def pauses(stage, programs, system, rounds, rate=None):
    """Measures snapshots under load, each followed by the same time without one. Without a rate, writers never pause."""
    found = []
    with Load(stage, programs, system, rate) as load:
        for _ in range(rounds):
            one = pause(load, system)
            load.ask("begin")
            time.sleep(LEAD_IN + one["snapshot"]["seconds"])
            found.append({**one, "without": load.ask("end")})
    return found


def pause(load, system):
    """One snapshot under this load."""
    load.ask("begin")
    time.sleep(LEAD_IN)
    snapshot = system.snapshot() if system.can_snapshot else nothing()
    during = load.ask("end")
    at_cut = load.ask("between {} {}".format(*snapshot["cut"])) if "cut" in snapshot else None
    if system.can_snapshot:
        system.tidy()
    return {"snapshot": snapshot, "during": during, "at_cut": at_cut}


def nothing():
    """Stands for a snapshot of one second, and takes none."""
    time.sleep(1)
    return {"seconds": 1.0}


def memory(stage, programs, system, rounds):
    """Measures the memory of snapshots under the same load. The sampling itself takes processor time."""
    found = []
    with Load(stage, programs, system, RATE) as load:
        for _ in range(rounds):
            with Peak(system.memory) as peak:
                load.ask("begin")
                snapshot = system.snapshot()
                writes = load.ask("end")["requests"]
            system.tidy()
            found.append({"snapshot": snapshot, "writes": writes, "extra_bytes": peak.extra})
    return found
