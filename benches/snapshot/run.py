#!/usr/bin/env python3
"""Measures snapshots: how long writers wait, beside Redis; how much memory they take; how long they last, beside dd.

`make bench-snapshot` builds what is needed and runs this. docs/performance.md says what is measured, and how.

    BENCH_QUICK=1      small sizes and few rounds: does it run at all
    BENCH_DIR=FOLDER   the disk to write to; without it, target/

Needs Linux, Python 3.11 and Redis 7, which it installs when it is root on Debian. Whatever it starts or makes is gone when
it ends, also after Ctrl-C.
"""

import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

import duration
import redis_system
import report
import rounds
from dsm_system import Dsm
from load import fill
from memory import GIB, MIB, available
from redis_system import Redis
from stage import SHARED_MEMORY, Failure, Stage

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Bytes in all, snapshots under load, snapshots while memory is measured.
SIZES = [(64 * MIB, 20, 5), (GIB, 10, 3), (4 * GIB, 5, 3)]
QUICK_SIZES = [(16 * MIB, 3, 2), (128 * MIB, 3, 2)]

# Bytes in all, and rounds beside dd.
DURATION = (GIB, 7)
QUICK_DURATION = (128 * MIB, 3)

# A load average from which on the machine has other things to do.
BUSY = 0.5

# What else it takes: processes, tables of pages, slots for writes.
MARGIN = 512 * MIB


def say(text):
    """Progress, for whoever waits."""
    print(f"... {text}", file=sys.stderr, flush=True)


def room_for(total, folder):
    """Why there is no room for this many bytes twice, if there is none. The other half are pages saved aside."""
    needed = 2 * total + MARGIN
    places = [
        ("/dev/shm", shutil.disk_usage(SHARED_MEMORY).free),
        ("memory", available()),
        (str(folder), shutil.disk_usage(folder).free),
    ]
    for place, free in places:
        if free < needed:
            return f"{place} has {report.size(free)} free, and this takes {report.size(needed)}"
    return None


def measure_size(parent, programs, redis, size):
    """dsm, then Redis, each alone on the machine."""
    total, pauses, memories = size
    found = {"bytes": total}
    for label in ("dsm", "Redis"):
        with Stage(parent) as stage:
            system = Dsm(stage, programs, total) if label == "dsm" else Redis(stage, redis, total)
            say(f"{label}, {report.size(total)}: filling")
            fill(stage, programs, system)
            one = found[label] = {"memory": []}
            for load, rate in (("equal", rounds.RATE), ("full", None)):
                say(f"{label}, {report.size(total)}: {pauses} snapshots under {load} load")
                one[load] = rounds.pauses(stage, programs, system, pauses, rate)
            if system.can_snapshot:
                say(f"{label}, {report.size(total)}: {memories} snapshots while memory is watched")
                one["memory"] = rounds.memory(stage, programs, system, memories)
            system.close()
    return found


def measure(parent, programs, quick):
    """Everything."""
    redis, redis_version = redis_system.find()
    version = subprocess.run([programs / "dsmd", "--version"], capture_output=True, text=True, check=True).stdout
    results = {
        "machine": {
            "processors": os.cpu_count(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "kernel": platform.release(),
            "load_before": os.getloadavg()[0],
        },
        "versions": {"dsm": version.split()[-1], "Redis": redis_version},
        "quick": quick,
        "sizes": [],
        "duration": None,
        "remarks": [],
    }
    if results["machine"]["load_before"] > BUSY:
        results["remarks"].append("the machine was busy before: the load average was {:.1f}".format(results["machine"]["load_before"]))
    for size in QUICK_SIZES if quick else SIZES:
        if reason := room_for(size[0], parent):
            results["remarks"].append(f"{report.size(size[0])} was skipped: {reason}")
        else:
            results["sizes"].append(measure_size(parent, programs, redis, size))
    total, count = QUICK_DURATION if quick else DURATION
    if not (programs / "dsm-snapshot").exists():
        results["remarks"].append(f"there is no {programs}/dsm-snapshot: snapshots of dsm were not measured")
    elif reason := room_for(total, parent):
        results["remarks"].append(f"the duration of {report.size(total)} was skipped: {reason}")
    else:
        say(f"duration, {report.size(total)}: {count} rounds beside dd")
        with Stage(parent) as stage:
            results["duration"] = duration.measure(stage, programs, total, count, say)
    return results


def stop(received, _):
    """A signal ends this as an error does: everything is put away first, and not disturbed by another one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + received)


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
    programs = target / "release"
    parent = pathlib.Path(os.environ.get("BENCH_DIR") or target)
    if not parent.is_dir():
        print(f"BENCH_DIR={parent} is no folder: make it, or name another", file=sys.stderr)
        return 66
    for program in ("dsmd", "examples/snapshot-load"):
        if not (programs / program).exists():
            print(f"there is no {programs / program}: run `make bench-snapshot`, which builds it", file=sys.stderr)
            return 66
    try:
        results = measure(parent, programs, bool(os.environ.get("BENCH_QUICK")))
    except (Failure, OSError) as failure:
        print(f"bench-snapshot: {failure}", file=sys.stderr)
        return 69
    results["targets"] = [dict(zip(("target", "found", "met"), one)) for one in report.targets(results)]
    output = target / "bench-snapshot.json"
    output.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(report.lines(results)))
    print(f"every round: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
