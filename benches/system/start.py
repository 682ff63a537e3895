"""How long dsmd takes to start: with a new segment, beside the allocation of its memory alone, and with one that is there."""

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

# What there is of it besides k, at most 5 %, and what everything else takes.
SHARE, MARGIN = 1.05, GIB

# That in which dsmd allocates.
STEP = 64 * MIB

MAX_DATAGRAM = 4096


def whole(wanted):
    """The bytes of a segment that is to have about so many."""
    return max(STEP, int(wanted) // STEP * STEP)


def fitting(wanted, free):
    """As many of the wanted bytes as fit."""
    return min(wanted, whole((free - MARGIN) / SHARE))


class Listener:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, stage):
        # Not in the stage's folder: the path of a socket is at most 108 bytes long.
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
        """Starts a process; returns it and the seconds until it was ready."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(MAX_DATAGRAM)  # Last words of the one before.
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
    """All that is started, and what it leaves in /dev/shm."""

    def __init__(self, stage, listener, programs, k):
        self.stage, self.listener, self.k = stage, listener, k
        self.load = programs / "system-load"
        config = stage.folder / "mcomp.cfg"
        configure(config, stage.name, k, [{"address": f"{stage.host}:{FIRST_PORT}"}], {})
        self.dsmd = command(programs / "dsmd", config)

    def allocation(self):
        """Seconds of the memory alone."""
        file = SHARED_MEMORY / f"{self.stage.name}.alone"
        line = [self.load, "allocate", "--file", file, "--size", self.k]
        process, seconds = self.listener.start(self.stage, "allocate", line)
        process.wait(READY_SECONDS)
        self.stage.stop(process)
        file.unlink()
        return {"allocation": seconds}

    def serving(self):
        """Seconds of a start with nothing there, and of starts after an end of either kind."""
        process, new = self.listener.start(self.stage, "new", self.dsmd)
        self.stage.stop(process)
        process, terminated = self._again()
        process.kill()
        process.wait()
        self.stage.stop(process)
        process, killed = self._again()
        self.stage.stop(process)
        for path in self.stage.shared():
            if path != self.listener.path:
                path.unlink()
        return {"new": new, "after SIGTERM": terminated, "after SIGKILL": killed}

    def _again(self):
        process, seconds = self.listener.start(self.stage, "again", self.dsmd)
        said = process.log.read_text()
        process.log.unlink()
        if "re-opened with its memory" not in said:
            raise Failure(f"dsmd did not say that it had re-opened its segment:\n{said.strip()}")
        return process, seconds


def measure(target, options, say):
    """The rounds, in seconds, and of how many bytes."""
    with Stage(target) as stage, Listener(stage) as listener:
        starts = Starts(stage, listener, target / "release", options.start_size)
        say(f"start: once before it counts, {size(options.start_size)}")
        starts.allocation()
        rounds, count = [], options.rounds or (2 if options.quick else 5)
        for number in range(count):
            say(f"start: round {number + 1} of {count}")
            # Neither always comes first: memory that was used lately is warmer.
            turns = [starts.allocation, starts.serving]
            found = [turn() for turn in (turns if number % 2 == 0 else reversed(turns))]
            rounds.append(found[0] | found[1] | {"bytes": options.start_size})
        return rounds


def findings(rounds):
    """To the allocation alone, and in milliseconds."""
    what = size(rounds[0]["bytes"])
    yield Finding(f"posix_fallocate of {what}, s", [one["allocation"] for one in rounds])
    ratios = [one["new"] / one["allocation"] for one in rounds]
    yield Finding(f"start with a new segment of {what}, its time to that", ratios, at_most=TARGET)
    for end in ("after SIGTERM", "after SIGKILL"):
        milliseconds = [one[end] * 1000 for one in rounds]
        yield Finding(f"start with the same segment {end}, ms", milliseconds, at_most=REOPEN_MS, digits=1)
