"""Measures long transfers: dsmctl between a file and three servers, compared with nbdcopy and nbdkit."""

import secrets

from dsm import command, configure
from findings import Finding
from memory import GIB, MIB
from packages import find
from servers import FIRST_PORT
from stage import SHARED_MEMORY, Failure, Stage

SERVERS, TARGET = 3, 1.0

SIZE, QUICK_SIZE = GIB, 64 * MIB

# k relative to the size of a transfer, which does not fill the last server.
SHARE = 3 / 8

# The memory of the servers and of nbdkit, the file, and a copy of it.
NEEDED = int(SERVERS * SHARE * SIZE) + 3 * SIZE

# The programs of the peer, with their Debian packages.
PEER = {"nbdkit": "nbdkit", "nbdcopy": "libnbd-bin"}


def peer(say):
    """The programs of the peer by name. None, with a message, where one is not installed and cannot be."""
    try:
        return {name: find(package, name) for name, package in PEER.items()}
    except Failure as failure:
        say(f"transfer: not compared with nbdcopy: {failure}")
        return None


def start(stage, dsmd, size):
    """Starts servers for a transfer of this size. Their clients use TCP. Returns the path of mcomp.cfg."""
    config = stage.folder / "mcomp.cfg"
    ports = range(FIRST_PORT, FIRST_PORT + SERVERS)
    addresses = [{"address": f"{stage.host}:{port}"} for port in ports]
    configure(config, stage.name, int(SHARE * size), addresses, {"client": {"local": "never"}})
    for index, port in enumerate(ports):
        process = stage.start(f"dsmd.{index}", command(dsmd, config, index))
        stage.wait_until_listens(process, port)
    return config


def copies(stage, programs, others, size, file):
    """The command lines of each candidate, in and out."""
    dsmctl = [programs / "dsmctl", "--config", start(stage, programs / "dsmd", size)]
    found = {"dsmctl": ([*dsmctl, "write", "0", "--file", file], [*dsmctl, "read", "0", str(size), "-o", "/dev/null"])}
    if others:
        port = FIRST_PORT + SERVERS
        line = [others["nbdkit"], "-f", "-i", stage.host, "-p", str(port), "memory", str(size), "allocator=malloc"]
        stage.wait_until_listens(stage.start("nbdkit", line), port)
        disk = f"nbd://{stage.host}:{port}"
        found["nbdcopy"] = ([others["nbdcopy"], file, disk], [others["nbdcopy"], disk, "null:"])
    return found


def check(stage, dsmctl, file, size):
    """Compares what dsmctl reads with what it wrote."""
    copy = SHARED_MEMORY / f"{stage.name}.copy"
    stage.run([*dsmctl[:3], "read", "0", str(size), "-o", copy])
    with file.open("rb") as one, copy.open("rb") as other:
        while expected := one.read(MIB):
            if other.read(MIB) != expected:
                raise Failure("dsmctl does not read the bytes that it wrote")
    copy.unlink()


def measure(target, options, say):
    """Measures the rounds: the seconds of each candidate, in and out, with the number of bytes."""
    others = peer(say)
    size, count = (QUICK_SIZE, 2) if options.quick else (SIZE, 15)
    with Stage(target) as stage:
        say("transfer: starting the servers")
        file = SHARED_MEMORY / f"{stage.name}.file"
        with file.open("wb") as written:
            for _ in range(size // MIB):
                written.write(secrets.token_bytes(MIB))
        lines = copies(stage, target / "release", others, size, file)
        for into, _ in lines.values():
            stage.run(into)  # the first use of a server's memory takes longer
        check(stage, lines["dsmctl"][1], file, size)
        rounds = []
        for number in range(options.rounds or count):
            say(f"transfer: round {number + 1} of {options.rounds or count}")
            order = sorted(lines, reverse=number % 2 == 1)
            found = {(name, way): stage.run(lines[name][way])[0] for way in (0, 1) for name in order}
            rounds.append({f"{name} {('in', 'out')[way]}": seconds for (name, way), seconds in found.items()} | {"bytes": size})
        return rounds


def findings(rounds):
    """The rates of dsmctl, and their ratios to those of nbdcopy."""
    mib = rounds[0]["bytes"] // MIB
    for way, what in (("in", "write --file"), ("out", "read -o /dev/null")):
        yield Finding(f"dsmctl {what}, {mib} MiB, GB/s", [one["bytes"] / 1e9 / one[f"dsmctl {way}"] for one in rounds])
        if f"nbdcopy {way}" in rounds[0]:
            ratios = [one[f"nbdcopy {way}"] / one[f"dsmctl {way}"] for one in rounds]
            yield Finding(f"dsmctl {what}, its rate to that of nbdcopy", ratios, at_least=TARGET)
