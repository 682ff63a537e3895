"""The servers: each is started on our address, filled, and measured."""

import os
import re

import dsm
import packages
import redis
from memory import MIB, own

MEMORY = 256 * MIB

# Bytes of a request while a server is filled whose memory is one range.
PIECE = 64 << 10

# Of dsmd and memcached, whose defaults are 1024: cells have as many, and a few come on top.
CONNECTIONS = 2048


class Backend:
    """A server. `speaks` is what the load must speak, `most` the most connections that make sense."""

    label, speaks, most, arguments = "", "", CONNECTIONS, ()

    def __init__(self, stage, load, port):
        self.stage, self.load, self.port = stage, load, port
        self.filled = None
        self.process = self.start()
        stage.wait_until_listens(self.process, port)
        self.own_before = None

    def place(self, size, depth):
        """Where it is, for the load."""
        place = [self.speaks, "--address", f"{self.stage.host}:{self.port}", "--memory", MEMORY]
        return [*map(str, [*place, "--size", size, "--depth", depth]), *self.arguments]

    def prepare(self, size):
        """Has all its memory written and read back, once."""
        if self.filled is None:
            self.stage.run([self.load, "fill", *self.place(PIECE, 8)])
            self.own_before = own(self.process.pid)
            self.filled = size


class Raw(Backend):
    """A server that only moves bytes, with a thread for each connection."""

    label, speaks, threads = "raw", "raw", 0

    def start(self):
        address = f"{self.stage.host}:{self.port}"
        command = [self.load, "serve", "--address", address, "--memory", str(MEMORY), "--threads", str(self.threads)]
        return self.stage.start(self.label, command)


class RawEpoll(Raw):
    """The same with two threads that share the connections."""

    label, threads = "raw epoll", 2


class Dsmd(Backend):
    """A memory of one server. `program` and `settings` ({table: {key: value}}) can be others than usual."""

    label, speaks = "dsmd", "dsm"

    def __init__(self, stage, load, port, program, settings, label="dsmd"):
        self.program, self.settings, self.label = program, settings, label
        self.config = stage.folder / f"{label}.cfg"
        self.arguments = ("--config", str(self.config))
        super().__init__(stage, load, port)

    def start(self):
        tables = {"limits": {"connections": CONNECTIONS}, "log": {"directory": self.stage.folder}}
        for table, values in self.settings.items():
            tables.setdefault(table, {}).update(values)
        server = {"address": f"{self.stage.host}:{self.port}"}
        dsm.configure(self.config, f"{self.stage.name}-{self.label}", MEMORY, [server], tables)
        return self.stage.start(self.label, dsm.command(self.program, self.config))


class Redis(Backend):
    """One key."""

    label = speaks = "redis"

    def __init__(self, stage, load, port, program):
        self.program = program
        super().__init__(stage, load, port)

    def start(self):
        return redis.start(self.stage, self.program, self.port, self.stage.folder)


class Memcached(Backend):
    """A key for each slot."""

    label = speaks = "memcached"

    def __init__(self, stage, load, port, program):
        self.program = program
        super().__init__(stage, load, port)

    def start(self):
        # Room for keys of 8 bytes, some 400 MiB, and a table for all of them from the start.
        command = [self.program, "-l", self.stage.host, "-p", str(self.port), "-U", "0", "-t", "2", "-I", "8m", "-m", "1024"]
        command += ["-c", str(CONNECTIONS), "-o", "hashpower=22"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        return self.stage.start("memcached", command)

    def prepare(self, size):
        """Slots of another size are other keys, and it does not part with memory easily: it starts again."""
        if self.filled != size:
            if self.filled is not None:
                self.stage.stop(self.process)
                self.process = self.start()
                self.stage.wait_until_listens(self.process, self.port)
            self.stage.run([self.load, "fill", *self.place(size, 16)])
            self.own_before = own(self.process.pid)
            self.filled = size


class Nbdkit(Backend):
    """A disk in memory, as one plain array: the faster of its allocators."""

    label, speaks = "nbdkit", "nbd"
    # It has 16 threads for each.
    most = 100

    def __init__(self, stage, load, port, program):
        self.program = program
        super().__init__(stage, load, port)

    def start(self):
        command = [self.program, "-f", "-i", self.stage.host, "-p", str(self.port), "memory", str(MEMORY)]
        return self.stage.start("nbdkit", [*command, "allocator=malloc"])


# What there is to compare with: Debian's package, how to ask for the version.
PEERS = {"redis": Redis, "memcached": Memcached, "nbdkit": Nbdkit}


def peer_program(label):
    """The program and its version; installed when it is missing and we may."""
    if label == "redis":
        return redis.find()
    program = packages.find(label, label)
    version = re.search(r"\d+(\.\d+)+", packages.said([program, "--version"]))
    return program, version[0] if version else "?"
