"""A server of Redis, or of Valkey, for a benchmark, without persistence."""

import re

import packages
from stage import Failure

# Debian's redis-tools has the server's program under the second name: both are the same file. The
# package redis-server adds a link and a service.
PACKAGE = "redis-tools"
PROGRAMS = ("redis-server", "redis-check-rdb")


def find():
    """The path of the program, and its version."""
    program = packages.find(PACKAGE, *PROGRAMS)
    said = packages.said(["redis-server", "--version"], executable=program)
    version = re.search(r"\bv=([\d.]+)", said)
    if not version or not version[1].startswith("7."):
        raise Failure(f"{program} is not Redis 7: its version is {said!r}")
    return program, version[1]


def start(stage, program, port, folder, label="redis", **more):
    """Starts a server and waits until it listens. `more` are settings of redis.conf, with _ for -."""
    settings = {"bind": stage.host, "port": port, "dir": folder, "save": "", "appendonly": "no", "daemonize": "no", **more}
    arguments = [str(word) for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    process = stage.start(label, [f"{label}-server", *arguments], executable=program)
    stage.wait_until_listens(process, port)
    return process
