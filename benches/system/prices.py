"""Measures the cost of a promise: the same cell with it and without it."""

import os
import signal

import cells
from figures import ratios
from findings import Finding
from measure import OURS, Bench
from options import Options
from program import ROOT
from stage import Stage

# The cfg values of crates/dsm-core/src/segment. Each affects only its cells: writes or reads.
WITHOUT = ("crash-safety", "optimistic-reads")

WRITES = ("w8 c8 d16", "w4k c1 d16")
READS = ("r8 c8 d16 free", "r4k c8 d16 free")
OPERATION_LOG = {"log": {"operations": "writes"}}


def build(target, say):
    """Builds a dsmd without the measured features in a separate folder. Returns its path."""
    folder = target / "bench-without"
    say(f"building dsmd without {' and '.join(WITHOUT)} in {folder}, which takes minutes the first time")
    flags = [f'--cfg=dsm_bench_without="{what}"' for what in WITHOUT]
    line = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--bin", "dsmd"]
    line += ["--manifest-path", str(ROOT / "Cargo.toml"), "--target-dir", str(folder)]
    started = []
    with Stage(target) as stage:
        # This variable needs no quotes for flags with spaces, and replaces flags in cargo's
        # configuration.
        stage.environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
        try:
            stage.run(line, started.append)
        finally:
            # The compilers are in cargo's process group. They survive cargo when it is stopped.
            for process in started:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
    return folder / "release" / "dsmd"


def rounds_beside(target, options, base, base_settings, names, say):
    """Measures the rounds of these cells, each with dsmd and with another dsmd."""
    default = (2, 0.2, 0.1) if options.quick else (5, 1.0, 0.3)
    chosen = Options(
        quick=options.quick,
        names=list(names),
        labels=[OURS],
        rounds=options.rounds or default[0],
        seconds=default[1],
        warm_up=default[2],
        settings={},
        base=base,
        base_settings=base_settings,
    )
    found = {}
    with Stage(target) as stage:
        bench = Bench(stage, target / "release", chosen, {}, say)
        for cell in cells.order(chosen.cells):
            if bench.possible(cell):
                say(cell.name)
                found[cell.name] = bench.cell(cell)
    return found


def measure(target, options, say):
    """Measures the rounds of the cells of each promise. "base" does not keep the promise, or writes the log."""
    without = build(target, say)
    say("the price of crash safety and of reads without semaphores")
    found = rounds_beside(target, options, without, {}, (*WRITES, *READS), say)
    say("the price of the operation log")
    logged = rounds_beside(target, options, target / "release" / "dsmd", OPERATION_LOG, WRITES, say)
    return {
        "crash safety": {name: found[name] for name in WRITES},
        # These cells need two processors and are skipped on a smaller machine.
        "reads without semaphores": {name: found[name] for name in READS if name in found},
        "the operation log of writes": logged,
    }


def findings(rounds):
    """The ratios of requests per second with the promise to those without."""
    for promise, found in rounds.items():
        for name, one in found.items():
            # For the operation log, "base" is the one with the promise.
            order = ("base", OURS) if promise == "the operation log of writes" else (OURS, "base")
            yield Finding(f"{promise}, {name}: the rate with, to that without", ratios(one, *order))
