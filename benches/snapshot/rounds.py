"""What is measured of a system under load: how long its writers wait, and how much memory a snapshot takes."""

import time

from load import Load
from memory import Peak

# Writes per second of each writer, where both systems shall have the same load: then neither is at its limit, and both
# have as many pages to copy in the same time.
RATE = 4000

# Seconds from the opening of a window to the snapshot: a request belongs to the window in which it began, also when the
# snapshot's first act is to make it wait.
LEAD_IN = 0.05


def pauses(stage, programs, system, rounds, rate=None):
    """Snapshots under load, each followed by as long a time without one. Without a rate, writers never rest."""
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
    """No snapshot, for a second."""
    time.sleep(1)
    return {"seconds": 1.0}


def memory(stage, programs, system, rounds):
    """Snapshots under the same load while their memory is watched, which costs processor time of its own."""
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
