"""During a partition clients fail within their deadline and name the server; after it, all of them work again.

Clients that reach a server are served, and a transfer with a long timeout only takes longer.
"""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

from harness import cluster, memory, network, transfer
from harness.outcome import expect

# All of the memory but the range of a write whose outcome is unknown.
KNOWN = ("0", "160MiB")

# On the third server.
READ = ("128MiB", "32MiB")

WRITTEN = os.urandom(2 * transfer.STEP)
TO_THIRD, TO_FIRST = "160MiB", "16MiB"

# The timeout of a client in seconds, and the additional time on a busy host.
DEADLINE, SLACK = 2, 2

# EX_UNAVAILABLE and EX_TEMPFAIL of sysexits.h.
UNAVAILABLE = 69


def scenario(lab):
    machines = cluster.start(lab)
    first, second, third = machines
    second.run("head -c 192M /dev/urandom | dsmctl write 0 -")
    before = incarnations(second)
    expected = memory.checksum(second, *READ)
    begun, rest = WRITTEN[: transfer.STEP], WRITTEN[transfer.STEP :]
    short = transfer.reading(first, *READ, f"{DEADLINE}s"), transfer.writing(first, TO_THIRD, begun, f"{DEADLINE}s")
    reader, writer = transfer.reading(first, *READ), transfer.writing(third, TO_FIRST, begun)
    lab.step("the first and the third machine cannot reach each other")
    network.cut(first, third)
    clients_fail(first, 2, "128MiB")
    clients_fail(third, 0, "0")
    lab.step("transfers end at their deadline")
    transfers_fail(*short)
    with ThreadPoolExecutor(2) as pool:
        read, written = pool.submit(reader.finish), pool.submit(writer.finish, rest)
        lab.step("clients use the servers that they reach")
        others_are_served(*machines)
        expect(not (read.done() or written.done()), "a transfer has ended during the partition")
        lab.step("the partition ends, and transfers with a long timeout continue")
        network.heal()
        transfers_succeed(second, read.result(), expected, written.result())
    lab.step("all machines see the same memory, of which nothing is lost")
    found = {memory.checksum(machine, *KNOWN) for machine in machines}
    expect(len(found) == 1, f"the machines see different memories: {found}")
    expect(incarnations(first) == before, f"the incarnations are {incarnations(first)}, expected {before}")


def incarnations(machine):
    return [server["incarnation"] for server in memory.servers(machine)]


def expect_unavailable(result, server):
    named = f"server {server} ({network.address(server + 1)}:7411)"
    expect(result.status == UNAVAILABLE and named in result.stderr, f"expected exit status {UNAVAILABLE} and {named!r}:\n{result}")


def clients_fail(machine, server, address):
    for command in (f"read {address} 8", f"write {address} x", "read 0 192MiB -o /var/tmp/copy", "ping"):
        began = time.monotonic()
        result = machine.run(f"dsmctl --timeout {DEADLINE}s {command}", status=UNAVAILABLE)
        took = time.monotonic() - began
        expect(took < DEADLINE + SLACK, f"it took {took:.1f} s, expected {DEADLINE}: {result}")
        if command != "ping":
            expect_unavailable(result, server)
    rows = ["down: " in row for row in result.stdout.splitlines()]
    expect(rows == [index == server for index in range(3)], f"not only server {server} is down: {result}")


def transfers_fail(reader, writer):
    result, data = reader.finish()
    expect_unavailable(result, 2)
    transfer.expect_begun(data)
    expect(f"after {len(data)} of" in result.stderr, f"dsmctl does not say how much it has read: {result}")
    # Its connection was idle. It found that the machine is silent before the second step: nothing of that was sent.
    result, _ = writer.finish(WRITTEN[transfer.STEP :])
    expect_unavailable(result, 2)
    expect(f"after {transfer.STEP} bytes were written" in result.stderr, f"dsmctl does not say how much it has written: {result}")


def others_are_served(first, second, third):
    first.run("dsmctl read 0 128MiB -o /var/tmp/copy && dsmctl write 64MiB first")
    third.run("dsmctl read 64MiB 128MiB -o /var/tmp/copy && dsmctl write 65MiB third")
    found = second.read("dsmctl read 0 192MiB -o /var/tmp/copy && dsmctl read 64MiB 5 && dsmctl read 65MiB 5")
    expect(found == "firstthird", f"the second machine reads {found!r}, expected what the others have written")
    second.run("dsmctl fill 63MiB 2MiB 7 && dsmctl fill 190MiB 1MiB 7")


def transfers_succeed(machine, read, expected, written):
    for result, _ in (read, written):
        expect(result.status == 0, f"a transfer did not continue: {result}")
    found = hashlib.sha256(read[1]).hexdigest()
    expect(expected.startswith(found), f"the reader has {found}, expected {expected}")
    found = memory.checksum(machine, TO_FIRST, len(WRITTEN))
    expected = hashlib.sha256(WRITTEN).hexdigest()
    expect(found.startswith(expected), f"the writer left {found}, expected {expected}")
