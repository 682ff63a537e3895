"""Measures the library's blocking calls over TCP: of one thread, beside a bare loop on a socket and Redis's client; of threads
that share a client; and the status of many servers."""

import json

import processors
import redis
from findings import Finding
from servers import FIRST_PORT, start
from stage import Stage

# Targets: ratios to the bare loop, to the crate redis, to threads with a client each, and to the status of one server.
CALL, AHEAD, SHARED, STATUS = 0.92, 1.0, 0.9, 3.0
MANY = 32


def measure(target, options, say):
    """Measures the rounds of each kind of cells: the seconds of one call."""
    programs, everywhere = target / "release", processors.own()
    rounds, seconds = (options.rounds or 2, 0.05) if options.quick else (options.rounds or 15, 0.3)
    found, (redis_program, _) = {}, redis.find()
    # One thread varies least with the server on its processor; threads need them all.
    for cells, number, where in (("calls", 1, everywhere[:1]), ("threads", 1, everywhere), ("status", MANY, everywhere)):
        with Stage(target) as stage:
            say(f"library: {rounds} rounds, {cells}")
            config, servers = start(stage, programs / "dsmd", number, FIRST_PORT)
            port = FIRST_PORT + number
            more = []
            if cells == "calls":
                servers.append(redis.start(stage, redis_program, port, stage.folder))
                more = ["--redis", f"{stage.host}:{port}"]
            for server in servers:
                processors.pin(server.pid, where)
            load = [programs / "system-load", "library", "--config", config, "--cells", cells, *more]
            load += ["--rounds", rounds, "--seconds", seconds]
            found[cells] = json.loads(processors.run(stage, load, where))["rounds"]
    return found


def findings(found):
    """The ratios of rates, round by round; for the status that of times."""
    for kind in ("r8", "w8", "r4k", "w4k", "r64k", "w64k"):
        ratios = [one[f"bare {kind}"] / one[f"library {kind}"] for one in found["calls"]]
        yield Finding(f"library: {kind} of one thread, its rate to a bare loop", ratios, at_least=CALL)
        ratios = [one[f"redis {kind}"] / one[f"library {kind}"] for one in found["calls"]]
        yield Finding(f"library: {kind} of one thread, its rate to the crate redis", ratios, at_least=AHEAD)
    for number in (2, 8):
        ratios = [one[f"own {number}"] / one[f"shared {number}"] for one in found["threads"]]
        yield Finding(f"library: r8 of {number} threads with one client, its rate to one each", ratios, at_least=SHARED)
    ratios = [one[f"status of {MANY}"] / one["status of one"] for one in found["status"]]
    yield Finding(f"library: status of {MANY} servers, its time to that of one", ratios, at_most=STATUS)
