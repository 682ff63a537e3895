"""Measures one call that reads a whole memory: the same bytes on one server and on several."""

import json

import processors
from dsm import command, configure
from findings import Finding
from memory import MIB
from stage import Stage

SERVERS = (1, 2, 4, 8)
TOTAL = 256 * MIB
TARGET = 1.10
FIRST_PORT = 7411

# The memory of all servers and of their reader.
NEEDED = (len(SERVERS) + 2) * TOTAL

# Reads per round and memory: a single read depends too much on the scheduler.
READS = 4


def start(stage, dsmd, number, port):
    """Starts a memory of `number` servers, on ports from `port` on. Returns its mcomp.cfg and the processes once all listen."""
    label = f"n{number}"
    config = stage.folder / f"{label}.cfg"
    ports = range(port, port + number)
    addresses = [{"address": f"{stage.host}:{port}"} for port in ports]
    configure(config, f"{stage.name}-{label}", TOTAL // number, addresses, {})
    processes = [stage.start(f"{label}.{index}", command(dsmd, config, index)) for index in range(number)]
    for process, port in zip(processes, ports):
        stage.wait_until_listens(process, port)
    return config, processes


def measure(target, options, say):
    """Measures the rounds for each placement: the seconds of a read by the number of servers."""
    programs, everywhere = target / "release", processors.own()
    rounds, reads = (options.rounds or 2, 1) if options.quick else (options.rounds or 9, READS)
    with Stage(target) as stage:
        load = [programs / "system-load", "servers", "--rounds", rounds, "--reads", reads]
        servers, port = [], FIRST_PORT
        for number in SERVERS:
            say(f"servers: starting {number}")
            config, processes = start(stage, programs / "dsmd", number, port)
            load += ["--config", config]
            servers += processes
            port += number
        found = {}
        for placement, where in (("same", everywhere[:1]), ("free", everywhere)):
            say(f"servers: {rounds} rounds, {placement}")
            for server in servers:
                processors.pin(server.pid, where)
            found[placement] = json.loads(processors.run(stage, load, where))["rounds"]
        return found


def findings(found):
    """The ratios of the times to that with one server."""
    for placement, rounds in found.items():
        rates = [TOTAL / 1e9 / one["1"] for one in rounds]
        yield Finding(f"{placement}: read of {TOTAL // MIB} MiB from one server, GB/s", rates)
        for number in SERVERS[1:]:
            ratios = [one[str(number)] / one["1"] for one in rounds]
            what = f"{placement}: read of as much from {number} servers, its time to that from one"
            yield Finding(what, ratios, at_most=TARGET)
