#!/usr/bin/env python3
"""Compares dsmd with Redis, Valkey, memcached, nbdkit, and raw servers that only copy bytes.

`make bench` builds the programs and runs this. docs/performance.md describes the measurements.

    BENCH_QUICK=1             few short rounds: shows only that the benchmark works
    BENCH_CELLS='r8*, idle'   only these cells; a name need not be in the table: 'r4k c4 d4 free'
    BENCH_BACKENDS='dsmd redis'   raw and only these, of: raw_epoll dsmd redis valkey memcached nbdkit
    BENCH_ROUNDS, BENCH_SECONDS, BENCH_WARM_UP   numbers
    BENCH_SET='limits.threads=2 ...'   settings of mcomp.cfg for dsmd
    BENCH_BASE=PROGRAM        another dsmd, as "base" in the same rounds: compares before and after a change. Of each there are
                              three servers, which take turns
    BENCH_BASE_SET            settings of "base"; without BENCH_BASE, "base" is the same program

Needs Linux, Python 3.11, and Debian's packages redis-tools, memcached and nbdkit, which root installs. Without Valkey, which
Debian 12 does not have and pip then installs in target/, the others are compared. Ends all processes and removes all files that
it has created, also after Ctrl-C.
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

# The memory of twelve servers, the keys of memcached, and a reserve.
NEEDED = 17 * MEMORY

# File descriptors of the largest cell, on both sides, and a reserve.
DESCRIPTORS = 4096


def prepare():
    """Raises the limit of file descriptors, which child processes inherit, and checks the available memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
            raise Failure(f"a process may open {hard} files, and this needs {DESCRIPTORS}: raise the limit with ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    if available() < NEEDED:
        raise Failure(f"{size(available())} of memory are available, and this needs {size(NEEDED)}: end other programs")


def find_peers(options, target):
    """The program and the version of each peer, and a remark about Valkey if it cannot be had. Raises Failure."""
    peers, absent = {}, []
    for label in filter(options.wants, PEERS):
        try:
            peers[label] = peer_program(label, target)
        except Failure as failure:
            if label != "valkey":
                raise
            absent.append(f"valkey was skipped: {failure}")
    return peers, absent


def measure(target):
    """Runs the benchmark. Raises UsageError."""
    programs = target / "release"
    options = Options.from_environment(programs)
    prepare()
    peers, absent = find_peers(options, target)
    machine = program.machine()
    results = {
        "machine": machine,
        "versions": {"dsm": program.dsm_version(programs)} | {label: version for label, (_, version) in peers.items()},
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": {cell.name: cell.target for cell in options.cells if cell.target},
        "remarks": [*program.remarks(machine), *absent],
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
                results["remarks"].append(f"{cell.name} was skipped: it needs two processors")
    # In the order of CELLS, not of measurement.
    results["cells"] = {cell.name: found[cell.name] for cell in options.cells if cell.name in found}
    picture = target / "bench-peers.svg"
    picture.write_text(plot.svg(results))
    return results, [*report.lines(results), f"plot: {picture}"]


if __name__ == "__main__":
    sys.exit(command.run("peers", "bench", ("dsmd", "peers-load"), measure))
