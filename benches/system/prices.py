"""What a promise costs: the same cell with it and without."""

import os
import signal

import cells
from figures import ratios
from findings import Finding
from measure import OURS, Bench
from options import Options
from program import ROOT
from stage import Stage

# The switches of crates/dsm-core/src/segment/worker.rs; each only changes the cells of its own.
WITHOUT = ("crash-safety", "optimistic-reads")

WRITES = ("w8 c8 d16", "w4k c1 d16")
READS = ("r8 c8 d16 free", "r4k c8 d16 free")
OPERATION_LOG = {"log": {"operations": "writes"}}


def build(target, say):
    """A dsmd without what is to be measured, in a folder of its own; returns its path."""
    folder = target / "bench-without"
    say(f"building dsmd without {' and '.join(WITHOUT)} in {folder}, which takes minutes the first time")
    flags = [f'--cfg=dsm_bench_without="{what}"' for what in WITHOUT]
    line = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--bin", "dsmd"]
    line += ["--manifest-path", str(ROOT / "Cargo.toml"), "--target-dir", str(folder)]
    started = []
    with Stage(target) as stage:
        # Flags with spaces need no quotes this way, and those from a configuration of cargo are replaced.
        stage.environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
        try:
            stage.run(line, started.append)
        finally:
            # The compilers that it started are in its group, and outlive it when it is stopped.
            for process in started:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
    return folder / "release" / "dsmd"


def rounds_beside(target, options, base, base_settings, names, say):
    """The rounds of these cells, with dsmd and another one in each."""
    usual = (2, 0.2, 0.1) if options.quick else (5, 1.0, 0.3)
    chosen = Options(
        quick=options.quick,
        names=list(names),
        labels=[OURS],
        rounds=options.rounds or usual[0],
        seconds=usual[1],
        warm_up=usual[2],
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
    """The rounds of each promise's cells; in "base" the promise is not kept, or the log is written."""
    without = build(target, say)
    say("the price of crash safety and of reads without semaphores")
    found = rounds_beside(target, options, without, {}, (*WRITES, *READS), say)
    say("the price of the operation log")
    logged = rounds_beside(target, options, target / "release" / "dsmd", OPERATION_LOG, WRITES, say)
    return {
        "crash safety": {name: found[name] for name in WRITES},
        # Two processors they take, and may not have.
        "reads without semaphores": {name: found[name] for name in READS if name in found},
        "the operation log of writes": logged,
    }


def findings(rounds):
    """Requests per second with it, to those without."""
    for promise, found in rounds.items():
        for name, one in found.items():
            # Where the log is written it is the other one that has the promise.
            order = ("base", OURS) if promise == "the operation log of writes" else (OURS, "base")
            yield Finding(f"{promise}, {name}: the rate with, to that without", ratios(one, *order))
