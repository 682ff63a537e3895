"""Snapshots of this build beside those of another, by turns: before beside after."""

import contextlib
import os
import pathlib
from statistics import median

import rounds
from dsm_system import Dsm
from environment import UsageError
from load import Load, fill
from memory import MIB
from program import say
from stage import Stage
from table import compared

TOTAL, QUICK_TOTAL = 512 * MIB, 16 * MIB
ROUNDS, QUICK_ROUNDS = 15, 3

# What is compared, and its place in the results. Writers send a fixed number of requests per second: without a limit they
# take all processors, and writing to the disk can take minutes.
SUBJECTS = [
    ("a snapshot without load: s", ("idle", "seconds")),
    ("a snapshot with compression 1, without load: s", ("compressed", "seconds")),
    ("a snapshot under load: s", ("loaded", "snapshot", "seconds")),
    ("pause at the cut under load, by its own clock: us", ("loaded", "snapshot", "pause_us")),
    ("99.9 % of requests during a snapshot under load: us", ("loaded", "during", "p99_9_us")),
    ("longest request during a snapshot under load: us", ("loaded", "during", "longest_us")),
]


def programs_of_base():
    """The folder with the programs of BENCH_BASE, if it is set. Raises UsageError."""
    named = os.environ.get("BENCH_BASE")
    if not named:
        return None
    folder = pathlib.Path(named).resolve().parent
    for program in (named, folder / "dsm-snapshot"):
        if not os.access(program, os.X_OK):
            raise UsageError(f"BENCH_BASE={named}: {program} is no program: name a dsmd with its dsm-snapshot beside it")
    return folder


def measure(parent, programs, base, quick):
    """The same snapshots of both, in the same rounds."""
    total, count = (QUICK_TOTAL, QUICK_ROUNDS) if quick else (TOTAL, ROUNDS)
    found = [{"dsm": {}, "base": {}} for _ in range(count)]
    with contextlib.ExitStack() as stack:
        systems = {}
        for label, folder in (("dsm", programs), ("base", base)):
            stage = stack.enter_context(Stage(parent))
            systems[label] = Dsm(stage, folder, total)
            stack.callback(systems[label].close)
            fill(stage, programs, systems[label])
        for name, compression, take in (
            ("idle", "none", _idle),
            ("compressed", 1, _idle),
            ("loaded", "none", lambda system: _loaded(programs, system)),
        ):
            for system in systems.values():
                system.compress(compression)
            for number in range(count):
                say(f"{name}, round {number + 1} of {count}")
                for label in _turn(number):
                    found[number][label][name] = take(systems[label])
    return {"bytes": total, "rounds": found}


def _turn(number):
    """Neither always comes first: a disk may be slower after it has been written to."""
    return ("dsm", "base") if number % 2 == 0 else ("base", "dsm")


def _idle(system):
    os.sync()
    snapshot = system.snapshot()
    system.tidy()
    return snapshot


def _loaded(programs, system):
    os.sync()
    with Load(system.stage, programs, system, rounds.RATE) as load:
        return rounds.pause(load, system)


def lines(results):
    """Every ratio, and the interval of their median."""
    yield f"This build and BENCH_BASE, {len(results['rounds'])} rounds by turns; above 1: this build is ahead"
    for text, path in SUBJECTS:
        values = {label: [_at(one[label], path) for one in results["rounds"]] for label in ("dsm", "base")}
        ratios = [base / dsm for dsm, base in zip(values["dsm"], values["base"])]
        yield f"{text}: {median(values['dsm']):.4g} and {median(values['base']):.4g}"
        yield f"  median {compared(ratios)}"


def _at(value, path):
    for key in path:
        value = value[key]
    return value
