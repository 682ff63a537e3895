#!/usr/bin/env python3
"""Measures what is beyond requests to one server: several servers, the local path, a start, the price of promises.

`make bench` builds what is needed and runs this after benches/peers. docs/performance.md says what is measured, and how.

    BENCH_QUICK=1               few short rounds: does it run at all; without prices, which takes a second build of dsmd
    BENCH_PARTS='start prices'  only these, of: servers local start prices
    BENCH_ROUNDS                a number, for all parts
    BENCH_START_SIZE=8          GiB of a new segment; less where so much does not fit

Needs Linux and Python 3.11. Whatever it starts or makes is gone when it ends, also after Ctrl-C.
"""

import os
import pathlib
import shutil
import sys
from dataclasses import dataclass

sys.dont_write_bytecode = True
BENCHES = pathlib.Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(BENCHES / "common"), str(BENCHES / "peers")]

import command
import environment
import local
import prices
import program
import servers
import start
from findings import lines
from memory import GIB, available
from program import say
from stage import SHARED_MEMORY, Failure
from table import size

PARTS = {"servers": servers, "local": local, "start": start, "prices": prices}

START_GIB, QUICK_START_GIB = 8, 0.25

# The part that builds a second dsmd is left to those who name it.
QUICK_PARTS = [part for part in PARTS if part != "prices"]


@dataclass
class Options:
    """See above."""

    quick: bool
    parts: list
    rounds: int | None
    start_size: int

    @classmethod
    def from_environment(cls):
        """Raises environment.Mistake."""
        quick = bool(os.environ.get("BENCH_QUICK"))
        parts = environment.words("BENCH_PARTS") or (QUICK_PARTS if quick else list(PARTS))
        if unknown := set(parts) - set(PARTS):
            raise environment.Mistake(f"BENCH_PARTS: there is no {unknown.pop()}, but {', '.join(PARTS)}")
        wanted = environment.number("BENCH_START_SIZE", float, QUICK_START_GIB if quick else START_GIB)
        return cls(quick, parts, environment.number("BENCH_ROUNDS", int), start.whole(wanted * GIB))


def fit(options, remarks):
    """Makes the new segment so large that there is room, and says so."""
    free = min(available(), shutil.disk_usage(SHARED_MEMORY).free)
    if free < servers.NEEDED:
        raise Failure(f"there are {size(free)} of memory, and this takes {size(servers.NEEDED)}")
    fitting = start.fitting(options.start_size, free)
    if fitting < options.start_size:
        remarks.append(f"start: {size(fitting)} instead of {size(options.start_size)}, for {size(free)} are free")
        options.start_size = fitting


def measure(target):
    """Everything. Raises Mistake."""
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
    sys.exit(command.run("system", "bench", ("dsmd", "peers-load", "system-load"), measure))
