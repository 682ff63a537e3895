"""dsmctl in the middle of a long transfer: a client that has used the memory before an event, and continues after it."""

import subprocess

from . import network
from .machine import Result
from .outcome import Failure, expect

# dsmctl takes this many bytes of an input of unknown length for its first step.
STEP = 8 << 20

# A long read has steps of this length, and as many at most before its output takes the first of them.
READ_STEP, READ_STEPS = 512 << 10, 8

# The timeout of the client: longer than the event that the scenario causes.
TIMEOUT = "90s"

# The longest time until the end of a transfer, once the scenario lets it continue.
SECONDS = 90

# EX_IOERR of sysexits.h, as dsmctl(1) has it.
MEMORY_LOST = 74


class Transfer:
    """A transfer that is blocked on its pipe after the first step: it gets no more input, or its output is not read."""

    def __init__(self, machine, arguments, timeout, user=None):
        self.command = f"dsmctl --timeout {timeout} {arguments}"
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        # Without buffers: dsmctl must block when its output is not read from the pipe.
        self.process = machine.start(f"exec {self.command}", user, text=False, bufsize=0, **pipes)
        self.taken = b""

    def finish(self, data=None):
        """Lets the transfer continue to its end. Returns its result, and all bytes that it read."""
        try:
            stdout, stderr = self.process.communicate(data, timeout=SECONDS)
        except subprocess.TimeoutExpired as late:
            self.process.kill()
            raise Failure(f"not done after {SECONDS} s: {self.command}") from late
        done = subprocess.CompletedProcess(self.command, self.process.returncode, "", stderr.decode())
        return Result(self.command, done), self.taken + stdout


def reading(machine, address, length, timeout=TIMEOUT):
    """A read that has completed its first step."""
    transfer = Transfer(machine, f"read {address} {length}", timeout)
    transfer.taken = transfer.process.stdout.read(1)
    return transfer


def writing(machine, address, step, timeout=TIMEOUT, user=None):
    """A write that has the input of its first step, at most STEP bytes, and waits for more."""
    transfer = Transfer(machine, f"write {address} -", timeout, user)
    transfer.process.stdin.write(step)
    return transfer


def expect_begun(data):
    """Checks that a read which failed has read some whole steps, no more than it may have had in flight."""
    steps, rest = divmod(len(data), READ_STEP)
    expect(rest == 0 and 0 < steps <= READ_STEPS, f"a client has read {len(data)} bytes, expected whole steps, {READ_STEPS} at most")


def expect_memory_lost(result, server):
    """Checks that the client got the error that the server has lost its memory."""
    told = f"server {server} ({network.address(server + 1)}:7411) lost its memory since this client first saw it"
    expect(result.status == MEMORY_LOST and told in result.stderr, f"expected exit status {MEMORY_LOST}, {told!r}:\n{result}")
