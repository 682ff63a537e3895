"""Measures one thread on the host of a server: in its shared memory, in plain memory mapped alike, and over TCP."""

import json

import processors
from findings import Finding
from memory import MIB
from servers import FIRST_PORT, start
from stage import SHARED_MEMORY, Stage

# Targets: ratios to a dependent random access, and to memcpy.
READ_8, WRITE_8, READ_1M = 3.0, 6.0, 0.8


def measure(target, options, say):
    """Measures the rounds: the seconds of one operation of each kind."""
    programs = target / "release"
    rounds, seconds = (options.rounds or 2, 0.05) if options.quick else (options.rounds or 7, 0.5)
    with Stage(target) as stage:
        say("local: starting a server")
        config, (server,) = start(stage, programs / "dsmd", 1, FIRST_PORT)
        # The thread has one processor. Results over TCP vary least when the server has the same
        # one.
        first = {processors.own()[0]}
        processors.pin(server.pid, first)
        load = [programs / "system-load", "local", "--config", config]
        load += ["--object", SHARED_MEMORY / f"{stage.name}.chain", "--rounds", rounds, "--seconds", seconds]
        say(f"local: {rounds} rounds")
        return json.loads(processors.run(stage, load, first))["rounds"]


def findings(rounds):
    """The ratios to plain memory, round by round."""

    def ratios(over, under, scale=1):
        return [one[over] / one[under] * scale for one in rounds]

    yield Finding("dependent random access to memory, ns", [one["access"] * 1e9 for one in rounds], digits=0)
    yield Finding("local read of 8 bytes, its time to that", ratios("read 8", "access"), at_most=READ_8)
    yield Finding("local write of 8 bytes, its time to that", ratios("write 8", "access"), at_most=WRITE_8)
    yield Finding("memcpy of 1 MiB, GB/s", [MIB / 1e9 / one["memcpy 1m"] for one in rounds])
    yield Finding("local read of 1 MiB, its rate to that", ratios("memcpy 1m", "read 1m"), at_least=READ_1M)
    for what in ("read 8", "write 8"):
        microseconds = [one[f"tcp {what}"] * 1e6 for one in rounds]
        yield Finding(f"{what.replace('8', 'of 8 bytes')} over TCP, us", microseconds, digits=1)
    yield Finding("read of 1 MiB over TCP, its rate to memcpy", ratios("memcpy 1m", "tcp read 1m"))
