"""Compares the duration of a snapshot with that of dd, which writes as many bytes to the same disk, in turn."""

import os

from dsm_system import Dsm
from load import fill
from stage import SHARED_MEMORY


def measure(stage, programs, total, rounds, say):
    """Measures rounds of dd and an uncompressed snapshot, and then some compressed snapshots."""
    system = Dsm(stage, programs, total)
    say(f"filling {system.total} bytes")
    fill(stage, programs, system)
    source = SHARED_MEMORY / f"{stage.name}.source"
    stage.run(["dd", "if=/dev/urandom", f"of={source}", "bs=1M", f"count={system.total}", "iflag=count_bytes,fullblock"])
    target = stage.folder / "dd"
    found = []
    for number in range(rounds):
        # The order alternates: a disk may be slower after earlier writes.
        turns = [lambda: ("dd", dd(stage, source, target)), lambda: ("snapshot", snapshot(system))]
        found.append(dict(turn() for turn in (turns if number % 2 == 0 else reversed(turns))))
        say("round {}: dd {:.2f} s, snapshot {:.2f} s".format(number + 1, found[-1]["dd"], found[-1]["snapshot"]["seconds"]))
    system.compress(1)
    compressed = [snapshot(system) for _ in range(min(rounds, 3))]
    system.close()
    return {"bytes": system.total, "rounds": found, "compressed": compressed}


def dd(stage, source, target):
    """The duration of dd in seconds."""
    os.sync()
    seconds, _ = stage.run(["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync"])
    target.unlink()
    return seconds


def snapshot(system):
    """Takes a snapshot after earlier writes have reached the disk, and describes it."""
    os.sync()
    found = system.snapshot()
    system.tidy()
    return found
