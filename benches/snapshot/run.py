#!/usr/bin/env python3
"""Measures snapshots: the waiting times of writers and the memory, compared with Redis, and the duration, with dd.

`make bench-snapshot` builds the programs and runs this. docs/performance.md describes the measurements.

    BENCH_QUICK=1      small sizes and few rounds: shows only that the benchmark works
    BENCH_DIR=FOLDER   a folder on the disk to write to; default: target/
    BENCH_BASE=DSMD    compares with another build's dsmd, and the dsm-snapshot in its folder, instead

Needs Linux, Python 3.11 and Redis 7, which root installs on Debian. Ends all processes and removes all files that it has
created, also after Ctrl-C.
"""

import os
import pathlib
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

import base
import command
import duration
import program
import redis
import report
import rounds
from dsm_system import Dsm
from environment import UsageError
from load import fill
from memory import GIB, MIB, available
from program import say
from redis_system import Redis
from stage import SHARED_MEMORY, Failure, Stage
from table import size

# Bytes in total, snapshots under load, snapshots whose memory is measured.
SIZES = [(64 * MIB, 20, 5), (GIB, 10, 3), (4 * GIB, 5, 3)]
QUICK_SIZES = [(16 * MIB, 3, 2), (128 * MIB, 3, 2)]

# Bytes in total, and rounds of a snapshot and dd.
DURATION = (GIB, 7)
QUICK_DURATION = (128 * MIB, 3)

# Other memory: processes, page tables, the slots of writes.
MARGIN = 512 * MIB


def room_for(total, folder):
    """Why twice this many bytes do not fit; None if they do. The second half is for the pages saved in the copy area."""
    needed = 2 * total + MARGIN
    places = [
        ("/dev/shm", shutil.disk_usage(SHARED_MEMORY).free),
        ("memory", available()),
        (str(folder), shutil.disk_usage(folder).free),
    ]
    for place, free in places:
        if free < needed:
            return f"{place} has {size(free)} free, and this needs {size(needed)}"
    return None


def measure_size(parent, programs, server, plan):
    """Measures dsm, then Redis. Only one of them runs at a time."""
    total, pauses, memories = plan
    found = {"bytes": total}
    for label in ("dsm", "Redis"):
        with Stage(parent) as stage:
            system = Dsm(stage, programs, total) if label == "dsm" else Redis(stage, server, total)
            say(f"{label}, {size(total)}: filling")
            fill(stage, programs, system)
            one = found[label] = {"memory": []}
            for load, rate in (("equal", rounds.RATE), ("full", None)):
                say(f"{label}, {size(total)}: {pauses} snapshots under {load} load")
                one[load] = rounds.pauses(stage, programs, system, pauses, rate)
            if system.can_snapshot:
                say(f"{label}, {size(total)}: {memories} snapshots while memory is watched")
                one["memory"] = rounds.memory(stage, programs, system, memories)
            system.close()
    return found


def measure(target):
    """Runs the benchmark. Raises UsageError."""
    programs, quick = target / "release", bool(os.environ.get("BENCH_QUICK"))
    parent = pathlib.Path(os.environ.get("BENCH_DIR") or target)
    if not parent.is_dir():
        raise UsageError(f"BENCH_DIR={parent} is not a folder: create it, or give another one")
    if other := base.programs_of_base():
        if reason := room_for(2 * base.TOTAL, parent):
            raise Failure(reason)
        results = base.measure(parent, programs, other, quick)
        return results, base.lines(results)
    server, redis_version = redis.find()
    machine = program.machine()
    results = {
        "machine": machine,
        "versions": {"dsm": program.dsm_version(programs), "Redis": redis_version},
        "quick": quick,
        "sizes": [],
        "duration": None,
        "remarks": program.remarks(machine),
    }
    for plan in QUICK_SIZES if quick else SIZES:
        if reason := room_for(plan[0], parent):
            results["remarks"].append(f"{size(plan[0])} was skipped: {reason}")
        else:
            results["sizes"].append(measure_size(parent, programs, server, plan))
    total, count = QUICK_DURATION if quick else DURATION
    if not (programs / "dsm-snapshot").exists():
        results["remarks"].append(f"{programs}/dsm-snapshot does not exist: snapshots of dsm were not measured")
    elif reason := room_for(total, parent):
        results["remarks"].append(f"the duration of {size(total)} was skipped: {reason}")
    else:
        say(f"duration, {size(total)}: {count} rounds beside dd")
        with Stage(parent) as stage:
            results["duration"] = duration.measure(stage, programs, total, count, say)
    results["targets"] = [dict(zip(("target", "found", "met"), one)) for one in report.targets(results)]
    return results, report.lines(results)


if __name__ == "__main__":
    sys.exit(command.run("snapshot", "bench-snapshot", ("dsmd", "snapshot-load"), measure))
