"""Measures short reads of one connection beside the long reads of others."""

import json
import os
import pathlib

from backends import MEMORY, Dsmd
from findings import Finding
from memory import MIB
from servers import FIRST_PORT
from stage import Failure, Stage

READERS, LONG, SHORT = 8, MIB, 8

# Targets: milliseconds of a short read, and the rate of the long ones to that of the base.
P50, P99, RATE = 0.3, 3.0, 0.9

# Seconds between the start of the long reads, the short ones, and the end of the long ones.
MARGIN = 0.3


def load(backend, size, connections, memory, warm_up, seconds):
    """The command of a load of reads, with a thread for each connection."""
    command = [backend.load, "run", *backend.load_arguments(size, 1, memory), "--mix", "read", "--connections", connections]
    command += ["--threads", connections, "--warm-up", warm_up, "--seconds", seconds, "--pid", backend.process.pid]
    return [str(word) for word in command]


def measure_one(stage, backend, seconds):
    """The results of short and of long reads at the same time."""
    long = stage.start("long", load(backend, LONG, READERS, MEMORY, MARGIN, seconds + 2 * MARGIN))
    try:
        # Each load first writes and compares bytes in the middle of its memory: not in the same.
        _, short = stage.run(load(backend, SHORT, 1, MEMORY // 4, 2 * MARGIN, seconds))
        if long.wait(60) != 0:
            raise Failure(f"the long reads ended with {long.returncode}: {long.log.read_text().strip()}")
        return {"short": json.loads(short), "long": json.loads(long.log.read_text())}
    finally:
        stage.stop(long)
        long.log.unlink(missing_ok=True)


def measure(target, options, say):
    """Measures the rounds, with dsmd and with the one of BENCH_BASE."""
    programs, base = target / "release", os.environ.get("BENCH_BASE")
    rounds, seconds = (options.rounds or 2, 0.3) if options.quick else (options.rounds or 5, 2.0)
    with Stage(target) as stage:
        chosen = {"dsmd": programs / "dsmd"} | ({"base": pathlib.Path(base).resolve()} if base else {})
        backends = {}
        for number, (label, program) in enumerate(chosen.items()):
            backends[label] = Dsmd(stage, programs / "peers-load", FIRST_PORT + number, program, {}, label)
            backends[label].prepare(LONG)
        say(f"beside: {rounds} rounds")
        found = []
        for number in range(rounds):
            # The order rotates, so that no program always follows the same one.
            labels = list(backends)[number % len(backends) :] + list(backends)[: number % len(backends)]
            found.append({label: measure_one(stage, backends[label], seconds) for label in labels})
        return found


def findings(rounds):
    """The times of short reads, and the rate of long ones."""
    what = f"read of {SHORT} bytes beside {READERS} connections that read {LONG // MIB} MiB"
    for name, bound in (("p50", P50), ("p99", P99)):
        times = [one["dsmd"]["short"][f"{name}_us"] / 1000 for one in rounds]
        yield Finding(f"{what}, {name}, ms", times, at_most=bound)
    rates = [one["dsmd"]["long"]["per_second"] for one in rounds]
    yield Finding("these long reads, GB/s", [rate * LONG / 1e9 for rate in rates])
    if "base" in rounds[0]:
        bases = [one["base"]["long"]["per_second"] for one in rounds]
        yield Finding("their rate, to that of BENCH_BASE", [rate / base for rate, base in zip(rates, bases)], at_least=RATE)
