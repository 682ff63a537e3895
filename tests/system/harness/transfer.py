"""dsmctl in the middle of a long transfer: a client that knows the memory of before, whatever happens to it meanwhile."""

import subprocess

from . import network
from .machine import Result
from .outcome import Failure, expect

# dsmctl carries so much at a time; in between it reads its input, or writes its output.
STEP = 8 << 20

# More than what happens meanwhile takes: the client is to wait for it, not to give up.
PATIENCE = "90s"

# The longest that a transfer may take once nothing holds it up.
SECONDS = 90

# EX_IOERR of sysexits.h, as dsmctl(1) has it.
MEMORY_LOST = 74


class Transfer:
    """It stands still after its first step, as it is given no more, or no more is taken from it."""

    def __init__(self, machine, arguments, timeout):
        self.command = f"dsmctl --timeout {timeout} {arguments}"
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        # Without buffers: whatever is not taken from the pipe holds dsmctl up.
        self.process = machine.start(f"exec {self.command}", text=False, bufsize=0, **pipes)
        self.taken = b""

    def finish(self, data=None):
        """Lets it go on to its end. Returns how that was, and all that it read."""
        try:
            stdout, stderr = self.process.communicate(data, timeout=SECONDS)
        except subprocess.TimeoutExpired as late:
            self.process.kill()
            raise Failure(f"not done after {SECONDS} s: {self.command}") from late
        done = subprocess.CompletedProcess(self.command, self.process.returncode, "", stderr.decode())
        return Result(self.command, done), self.taken + stdout


def reading(machine, address, length, timeout=PATIENCE):
    """A read that has had its first step."""
    transfer = Transfer(machine, f"read {address} {length}", timeout)
    transfer.taken = transfer.process.stdout.read(1)
    return transfer


def writing(machine, address, step, timeout=PATIENCE):
    """A write that has been given its first step, which is not longer than STEP, and waits for more."""
    transfer = Transfer(machine, f"write {address} -", timeout)
    transfer.process.stdin.write(step)
    return transfer


def expect_memory_lost(result, server):
    """It was told that this is no longer the memory that it knew."""
    told = f"server {server} ({network.address(server + 1)}:7411) lost its memory since this client first saw it"
    expect(result.status == MEMORY_LOST and told in result.stderr, f"expected exit status {MEMORY_LOST}, {told!r}:\n{result}")
