"""Measures the start of dsmd: with a new segment, compared with the allocation of its memory, and with an existing one."""

import os
import select
import socket
import time

from dsm import command, configure
from findings import Finding
from memory import GIB, MIB
from servers import FIRST_PORT
from stage import READY_SECONDS, SHARED_MEMORY, Failure, Stage
from table import size

TARGET = 1.2
REOPEN_MS = 50

# The size of a segment relative to k, with its overhead of at most 5 %, and a reserve for
# everything else.
SHARE, MARGIN = 1.05, GIB

# dsmd allocates its memory in steps of this size.
STEP = 64 * MIB

MAX_DATAGRAM = 4096


def whole(wanted):
    """The wanted number of bytes, rounded down to whole steps."""
    return max(STEP, int(wanted) // STEP * STEP)


def fitting(wanted, free):
    """The wanted number of bytes, or as many as fit."""
    return min(wanted, whole((free - MARGIN) / SHARE))


class Listener:
    """The socket of NOTIFY_SOCKET, as a service manager has it."""

    def __init__(self, stage):
        # Not in the stage's folder: the path of a socket has at most 108 bytes.
        self.path = SHARED_MEMORY / f"{stage.name}.notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        stage.environment["NOTIFY_SOCKET"] = str(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.path.unlink(missing_ok=True)

    def start(self, stage, label, line):
        """Starts a process. Returns it, and the seconds until READY=1."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(MAX_DATAGRAM)  # messages of the previous process
        begin = time.monotonic()
        process = stage.start(label, [str(word) for word in line])
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                there, _, _ = select.select([self.socket, ended], [], [], max(0, begin + READY_SECONDS - time.monotonic()))
                if self.socket in there:
                    if "READY=1" in self.socket.recv(MAX_DATAGRAM).decode().splitlines():
                        return process, time.monotonic() - begin
                elif there:
                    raise Failure(f"{label} has ended before it was ready:\n{process.log.read_text().strip()}")
                else:
                    raise Failure(f"{label} was not ready after {READY_SECONDS} s:\n{process.log.read_text().strip()}")
        finally:
            os.close(ended)


class Starts:
    """Starts the measured processes, and removes their objects in /dev/shm."""

    def __init__(self, stage, listener, programs, k):
        self.stage, self.listener, self.k = stage, listener, k
        self.load = programs / "system-load"
        config = stage.folder / "mcomp.cfg"
        configure(config, stage.name, k, [{"address": f"{stage.host}:{FIRST_PORT}"}], {})
        self.dsmd = command(programs / "dsmd", config)

    def allocation(self):
        """The seconds of the allocation alone."""
        file = SHARED_MEMORY / f"{self.stage.name}.alone"
        line = [self.load, "allocate", "--file", file, "--size", self.k]
        process, seconds = self.listener.start(self.stage, "allocate", line)
        process.wait(READY_SECONDS)
        self.stage.stop(process)
        file.unlink()
        return {"allocation": seconds}

    def serving(self):
        """The seconds of a start without a segment, and of starts after SIGTERM and after SIGKILL."""
        process, new = self.listener.start(self.stage, "new", self.dsmd)
        self.stage.stop(process)
        process, terminated = self._restart()
        process.kill()
        process.wait()
        self.stage.stop(process)
        process, killed = self._restart()
        self.stage.stop(process)
        for path in self.stage.shared():
            if path != self.listener.path:
                path.unlink()
        return {"new": new, "after SIGTERM": terminated, "after SIGKILL": killed}

    def _restart(self):
        process, seconds = self.listener.start(self.stage, "again", self.dsmd)
        said = process.log.read_text()
        process.log.unlink()
        if "re-opened with its memory" not in said:
            raise Failure(f"dsmd did not say that it had re-opened its segment:\n{said.strip()}")
        return process, seconds


def measure(target, options, say):
    """Measures the rounds, in seconds, with the number of bytes."""
    with Stage(target) as stage, Listener(stage) as listener:
        starts = Starts(stage, listener, target / "release", options.start_size)
        say(f"start: warm-up, {size(options.start_size)}")
        starts.allocation()
        rounds, count = [], options.rounds or (2 if options.quick else 5)
        for number in range(count):
            say(f"start: round {number + 1} of {count}")
            # The order alternates: recently used memory is faster.
            turns = [starts.allocation, starts.serving]
            found = [turn() for turn in (turns if number % 2 == 0 else reversed(turns))]
            rounds.append(found[0] | found[1] | {"bytes": options.start_size})
        return rounds


def findings(rounds):
    """The ratio to the allocation alone, and milliseconds."""
    what = size(rounds[0]["bytes"])
    yield Finding(f"posix_fallocate of {what}, s", [one["allocation"] for one in rounds])
    ratios = [one["new"] / one["allocation"] for one in rounds]
    yield Finding(f"start with a new segment of {what}, its time to that", ratios, at_most=TARGET)
    for end in ("after SIGTERM", "after SIGKILL"):
        milliseconds = [one[end] * 1000 for one in rounds]
        yield Finding(f"start with the same segment {end}, ms", milliseconds, at_most=REOPEN_MS, digits=1)
