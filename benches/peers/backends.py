"""The servers: each listens on the stage's address, and is filled before it is measured."""

import os
import re

import dsm
import packages
import redis
import valkey
from memory import MIB, own

MEMORY = 256 * MIB

# Bytes of a request that fills a server whose memory is one range.
PIECE = 64 << 10

# The limit of connections of dsmd and memcached. The default of 1024 is too low: cells have up to
# 1000, and a few more are open.
CONNECTIONS = 2048


class Backend:
    """A server. `protocol` is the protocol of the load, `most` the maximum number of connections."""

    label, protocol, most, arguments = "", "", CONNECTIONS, ()

    def __init__(self, stage, load, port):
        self.stage, self.load, self.port = stage, load, port
        self.filled = None
        self.process = self.start()
        stage.wait_until_listens(self.process, port)
        self.own_before = None

    def load_arguments(self, size, depth, memory=MEMORY):
        """The arguments of the load for the first `memory` bytes of this server."""
        arguments = [self.protocol, "--address", f"{self.stage.host}:{self.port}", "--memory", memory]
        return [*map(str, [*arguments, "--size", size, "--depth", depth]), *self.arguments]

    def prepare(self, size):
        """Writes all of its memory and reads it back, once."""
        if self.filled is None:
            self.stage.run([self.load, "fill", *self.load_arguments(PIECE, 8)])
            self.own_before = own(self.process.pid)
            self.filled = size


class Raw(Backend):
    """A server that only copies bytes, with one thread per connection."""

    label, protocol, threads = "raw", "raw", 0

    def start(self):
        address = f"{self.stage.host}:{self.port}"
        command = [self.load, "serve", "--address", address, "--memory", str(MEMORY), "--threads", str(self.threads)]
        return self.stage.start(self.label, command)


class RawEpoll(Raw):
    """The same with two threads that share the connections."""

    label, threads = "raw epoll", 2


class Dsmd(Backend):
    """A memory of one server, of the dsmd `program` with `settings` ({table: {key: value}})."""

    label, protocol = "dsmd", "dsm"

    def __init__(self, stage, load, port, program, settings, label="dsmd"):
        self.program, self.settings, self.label = program, settings, label
        self.config = stage.folder / f"{label}-{port}.cfg"
        self.arguments = ("--config", str(self.config))
        super().__init__(stage, load, port)

    def start(self):
        tables = {"limits": {"connections": CONNECTIONS}, "log": {"directory": self.stage.folder}}
        for table, values in self.settings.items():
            tables.setdefault(table, {}).update(values)
        server = {"address": f"{self.stage.host}:{self.port}"}
        dsm.configure(self.config, f"{self.stage.name}-{self.port}", MEMORY, [server], tables)
        return self.stage.start(self.label, dsm.command(self.program, self.config))


class Redis(Backend):
    """Redis, with one key for the whole memory."""

    label = protocol = "redis"

    def __init__(self, stage, load, port, program):
        self.program = program
        super().__init__(stage, load, port)

    def start(self):
        return redis.start(self.stage, self.program, self.port, self.stage.folder, self.label)


class Valkey(Redis):
    """Valkey, which has Redis's protocol."""

    label = "valkey"


class Memcached(Backend):
    """memcached, with one key per slot."""

    label = protocol = "memcached"

    def __init__(self, stage, load, port, program):
        self.program = program
        super().__init__(stage, load, port)

    def start(self):
        # Memory for values of 8 bytes, about 400 MiB with their keys, and a hash table of the final
        # size.
        command = [self.program, "-l", self.stage.host, "-p", str(self.port), "-U", "0", "-t", "2", "-I", "8m", "-m", "1024"]
        command += ["-c", str(CONNECTIONS), "-o", "hashpower=22"]
        if os.geteuid() == 0:
            command += ["-u", "daemon"]
        return self.stage.start("memcached", command)

    def prepare(self, size):
        """Slots of another size need other keys, and memcached keeps its memory: restarts it for another size."""
        if self.filled != size:
            if self.filled is not None:
                self.stage.stop(self.process)
                self.process = self.start()
                self.stage.wait_until_listens(self.process, self.port)
            self.stage.run([self.load, "fill", *self.load_arguments(size, 16)])
            self.own_before = own(self.process.pid)
            self.filled = size


class Nbdkit(Backend):
    """nbdkit with a disk in memory, by the faster of its allocators: one array."""

    label, protocol = "nbdkit", "nbd"
    # It has 16 threads per connection.
    most = 100

    def __init__(self, stage, load, port, program):
        self.program = program
        super().__init__(stage, load, port)

    def start(self):
        command = [self.program, "-f", "-i", self.stage.host, "-p", str(self.port), "memory", str(MEMORY)]
        return self.stage.start("nbdkit", [*command, "allocator=malloc"])


# The servers of other projects.
PEERS = {"redis": Redis, "valkey": Valkey, "memcached": Memcached, "nbdkit": Nbdkit}


def peer_program(label, target):
    """The path of the program, and its version; a missing program is installed. Raises Failure."""
    if label == "redis":
        return redis.find()
    if label == "valkey":
        return valkey.find(target)
    program = packages.find(label, label)
    version = re.search(r"\d+(\.\d+)+", packages.said([program, "--version"]))
    return program, version[0] if version else "?"
