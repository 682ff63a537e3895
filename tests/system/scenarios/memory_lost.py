"""A machine that loses power loses its memory: clients get an error and no zeros; a restore brings all bytes back.

By default the server begins with zeros: on_memory_loss = "empty".
"""

import hashlib
import os

from harness import cluster, memory, service, snapshots, transfer
from harness.outcome import expect, wait_until

WHOLE, FIRST, SECOND, THIRD = ("0", "192MiB"), ("0", "64MiB"), ("64MiB", "64MiB"), ("128MiB", "64MiB")

# Written to the second server, in two steps of dsmctl.
WRITTEN = os.urandom(2 * transfer.STEP)
WRITTEN_TO = "96MiB"

# packaging/systemd/dsm.catalog
LOST = "ea91f62b0d174c18ae0949208d72091c"


def scenario(lab):
    machines = cluster.start(lab)
    first, second, third = machines
    first.run("head -c 80M /dev/urandom | dsmctl write 60MiB -")
    expected = memory.checksum(first, *WHOLE)
    snapshot = snapshots.take(first)
    first.run("dsmctl fill 62MiB 1MiB 7 && dsmctl fill 130MiB 1MiB 7")
    kept = [memory.checksum(first, *share) for share in (FIRST, THIRD)]
    clients = clients_begin(lab, first, third)
    lab.step("the second machine loses power, and boots")
    second.power_cut()
    second.boot()
    it_says_so(second)
    lab.step("clients that used its memory get an error")
    clients_are_told(*clients)
    lab.step("its memory has zeros, and that of the others is unchanged")
    memory.expect_zeros(second, *SECOND)
    found = [memory.checksum(second, *share) for share in (FIRST, THIRD)]
    expect(found == kept, f"servers that lost nothing have {found}, expected {kept}")
    lab.step("a restore brings all bytes back, on all servers")
    all_is_restored(machines, snapshot, expected)


def clients_begin(lab, first, third):
    lab.step("two clients are in the middle of transfers")
    lengths = [number * transfer.READ_STEP for number in range(1, transfer.READ_STEPS + 1)]
    before = {length: memory.checksum(first, SECOND[0], length) for length in lengths}
    reader = transfer.reading(first, *SECOND)
    writer = transfer.writing(third, WRITTEN_TO, WRITTEN[: transfer.STEP])
    last, at = WRITTEN[transfer.STEP - 8 : transfer.STEP].hex(), f"{WRITTEN_TO}+{transfer.STEP - 8}"
    wait_until("a first step to be written", lambda: first.read(f"dsmctl read {at} 8 --format hex") == last)
    return reader, before, writer


def it_says_so(machine):
    service.expect_state(machine, "dsmd", "active")
    said = service.messages(machine, f"--boot --unit=dsmd MESSAGE_ID={LOST} DSM_SERVER=1")
    expect("its memory begins as zeros" in said, f"dsmd does not say that its memory is lost, but: {said}")
    text = service.journal(machine, "--boot --unit=dsmd --catalog")
    for line in ("The share of server 1 begins with zeros", "To restore a snapshot: dsmctl snapshot list"):
        expect(line in text, f"journalctl -x does not explain with {line!r}:\n{text}")


def clients_are_told(reader, before, writer):
    result, data = reader.finish()
    transfer.expect_memory_lost(result, 1)
    # The error is not enough: the client must not have read a byte of the new memory.
    found = hashlib.sha256(data).hexdigest()
    transfer.expect_begun(data)
    expect(before[len(data)].startswith(found), f"a client has read {len(data)} bytes that are not the first ones of the old memory")
    result, _ = writer.finish(WRITTEN[transfer.STEP :])
    transfer.expect_memory_lost(result, 1)


def all_is_restored(machines, snapshot, expected):
    first, _, third = machines
    client = transfer.reading(third, *FIRST)
    first.run(f"dsmctl snapshot restore {snapshot}")
    for machine in machines:
        found = memory.checksum(machine, *WHOLE)
        expect(found == expected, f"{machine.name} reads {found} after the restore, expected {expected}")
    result, _ = client.finish()
    transfer.expect_memory_lost(result, 0)
