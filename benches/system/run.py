#!/usr/bin/env python3
"""Measures whole systems: several servers, long transfers, the shared-memory path, the start of dsmd, short reads beside long
ones, and the cost of promises.

`make bench` builds the programs and runs this after benches/peers. docs/performance.md describes the measurements.

    BENCH_QUICK=1               few short rounds: shows only that the benchmark works; without prices, which builds a dsmd
    BENCH_PARTS='start prices'  only these parts, of: servers transfer local library start beside prices
    BENCH_BASE=PROGRAM          another dsmd, for the rate of long reads in `beside`
    BENCH_ROUNDS                the number of rounds of all parts
    BENCH_START_SIZE=8          GiB of a new segment; less if it does not fit

Needs Linux and Python 3.11. Ends all processes and removes all files that it has created, also after Ctrl-C.
"""

import os
import pathlib
import shutil
import sys
from dataclasses import dataclass

sys.dont_write_bytecode = True
BENCHES = pathlib.Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(BENCHES / "common"), str(BENCHES / "peers")]

import beside
import command
import environment
import library
import local
import prices
import program
import servers
import start
import transfer
from findings import lines
from memory import GIB, available
from program import say
from stage import SHARED_MEMORY, Failure
from table import size

PARTS = {
    "servers": servers,
    "transfer": transfer,
    "local": local,
    "library": library,
    "start": start,
    "beside": beside,
    "prices": prices,
}

START_GIB, QUICK_START_GIB = 8, 0.25

# Not the part that builds a second dsmd: it runs only when BENCH_PARTS names it.
QUICK_PARTS = [part for part in PARTS if part != "prices"]


@dataclass
class Options:
    """The settings of the benchmark, as documented above."""

    quick: bool
    parts: list
    rounds: int | None
    start_size: int

    @classmethod
    def from_environment(cls):
        """The settings of this process's environment. Raises environment.UsageError."""
        quick = bool(os.environ.get("BENCH_QUICK"))
        parts = environment.words("BENCH_PARTS") or (QUICK_PARTS if quick else list(PARTS))
        if unknown := set(parts) - set(PARTS):
            raise environment.UsageError(f"BENCH_PARTS: {unknown.pop()} is not a part: expected any of {', '.join(PARTS)}")
        wanted = environment.number("BENCH_START_SIZE", float, QUICK_START_GIB if quick else START_GIB)
        return cls(quick, parts, environment.number("BENCH_ROUNDS", int), start.whole(wanted * GIB))


def fit(options, remarks):
    """Reduces the size of the new segment if it does not fit, and remarks on it."""
    free = min(available(), shutil.disk_usage(SHARED_MEMORY).free)
    needed = transfer.NEEDED if "transfer" in options.parts and not options.quick else servers.NEEDED
    if free < needed:
        raise Failure(f"{size(free)} of memory are available, and this needs {size(needed)}: end other programs")
    fitting = start.fitting(options.start_size, free)
    if fitting < options.start_size:
        remarks.append(f"start: {size(fitting)} instead of {size(options.start_size)}, because {size(free)} are free")
        options.start_size = fitting


def measure(target):
    """Runs the benchmark. Raises environment.UsageError."""
    options = Options.from_environment()
    machine = program.machine()
    version = program.dsm_version(target / "release")
    results = {
        "machine": machine,
        "versions": {"dsm": version},
        "quick": options.quick,
        "remarks": program.remarks(machine),
    }
    fit(options, results["remarks"])
    results["parts"] = {part: PARTS[part].measure(target, options, say) for part in options.parts}
    found = [list(PARTS[part].findings(rounds)) for part, rounds in results["parts"].items()]
    results["findings"] = [finding.described() for part in found for finding in part]
    title = f"{machine['processors']} processors, {size(machine['memory'])}, Linux {machine['kernel']}; dsm {version}"
    return results, [title, *lines(found), *results["remarks"]]


if __name__ == "__main__":
    sys.exit(command.run("system", "bench", ("dsmd", "dsmctl", "peers-load", "system-load"), measure))
