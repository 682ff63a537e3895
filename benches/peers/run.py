#!/usr/bin/env python3
"""Measures dsmd beside Redis, memcached, nbdkit, and raw servers that only move bytes.

`make bench` builds what is needed and runs this. docs/performance.md says what is measured, and how.

    BENCH_QUICK=1             few short rounds: does it run at all
    BENCH_CELLS='r8*, idle'   only cells with these names, or others than in the table: 'r4k c4 d4 free'
    BENCH_BACKENDS='dsmd redis'   only these, of: raw_epoll dsmd redis memcached nbdkit; raw is always there
    BENCH_ROUNDS, BENCH_SECONDS, BENCH_WARM_UP   numbers
    BENCH_SET='limits.threads=2 ...'   settings of mcomp.cfg for dsmd
    BENCH_BASE=PROGRAM        another dsmd, as "base" in the same rounds: before beside after
    BENCH_BASE_SET            its settings; without BENCH_BASE, the same program with others

Needs Linux, Python 3.11, and Debian's packages redis-tools, memcached and nbdkit, which it installs when it is root.
Whatever it starts or makes is gone when it ends, also after Ctrl-C.
"""

import pathlib
import resource
import sys

sys.dont_write_bytecode = True
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

import cells
import command
import plot
import program
import report
from backends import MEMORY, PEERS, peer_program
from measure import Bench
from memory import available
from options import Options
from program import say
from stage import Failure, Stage
from table import size

# Seven servers, memcached with its keys, and what else they take.
NEEDED = 12 * MEMORY

# Connections of the largest cell, on both sides, and what else is open.
DESCRIPTORS = 4096


def prepare():
    """Descriptors for us and for whom we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
            raise Failure(f"a process may open {hard} files here, and this takes {DESCRIPTORS}: raise it with ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    if available() < NEEDED:
        raise Failure(f"there are {size(available())} of memory, and this takes {size(NEEDED)}")


def measure(target):
    """Everything. Raises Mistake."""
    programs = target / "release"
    options = Options.from_environment(programs)
    prepare()
    peers = {label: peer_program(label) for label in PEERS if options.wants(label)}
    machine = program.machine()
    results = {
        "machine": machine,
        "versions": {"dsm": program.dsm_version(programs)} | {label: version for label, (_, version) in peers.items()},
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": {cell.name: cell.target for cell in options.cells if cell.target},
        "remarks": program.remarks(machine),
        "idle": None,
    }
    found = {}
    with Stage(target) as stage:
        bench = Bench(stage, programs, options, peers, say)
        if options.idle:
            results["idle"] = bench.idle()
        for cell in cells.order(options.cells):
            if bench.possible(cell):
                say(cell.name)
                found[cell.name] = bench.cell(cell)
            else:
                results["remarks"].append(f"{cell.name} was skipped: it takes two processors")
    # In the order of the table, not in which they were measured.
    results["cells"] = {cell.name: found[cell.name] for cell in options.cells if cell.name in found}
    picture = target / "bench-peers.svg"
    picture.write_text(plot.svg(results))
    return results, [*report.lines(results), f"plot: {picture}"]


if __name__ == "__main__":
    sys.exit(command.run("peers", "bench", ("dsmd", "peers-load"), measure))
