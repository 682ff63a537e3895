"""With on_memory_loss = "restore" a machine that lost its memory gets its part of the newest snapshot before it is ready.

The snapshot may be on this machine or on another one. Without a snapshot, dsmd waits, and looks for one again when it is
restarted.
"""

from harness import cluster, memory, service, snapshots, transfer
from harness.outcome import expect

RESTORE = '[recovery]\non_memory_loss = "restore"\n'

FIRST, SECOND, THIRD = ("0", "64MiB"), ("64MiB", "64MiB"), ("128MiB", "64MiB")

# packaging/systemd/dsm.catalog
READY, RECOVERY = "fdf13566a6e6426e958efa0bd8ef3365", "7f4c160cd300498ea855c8bbc9d1a8b5"

# EX_TEMPFAIL of sysexits.h.
LATER = 75


def scenario(lab):
    machines = cluster.start(lab, more=RESTORE)
    first, second, third = machines
    first.run("dsmctl memory accept-empty")
    first.run("head -c 80M /dev/urandom | dsmctl write 60MiB -")
    snapshots.take(first)
    first.run("dsmctl fill 64MiB 1MiB 7")
    newest = snapshots.take(first)
    cut = [memory.checksum(first, *share) for share in (FIRST, SECOND)]
    first.run("dsmctl fill 1MiB 1MiB 8 && dsmctl fill 65MiB 1MiB 8 && dsmctl fill 129MiB 1MiB 8")
    kept = memory.checksum(first, *THIRD)
    client = transfer.reading(third, *SECOND)
    lab.step("the machine with the snapshots and another one lose power; the other one boots first and waits")
    first.power_cut()
    second.power_cut()
    second.boot()
    it_finds_none(second)
    lab.step("the machine with the snapshots boots, and gets its part of the newest one before it is ready")
    first.boot()
    it_is_restored(first, 0, newest)
    lab.step("the other one gets its part when dsmd is restarted")
    second.run("systemctl restart dsmd")
    it_is_restored(second, 1, newest)
    lab.step("it loses power again, and gets its part as it boots")
    second.power_cut()
    second.boot()
    it_is_restored(second, 1, newest)
    found = [memory.checksum(third, *share) for share in (FIRST, SECOND)]
    expect(found == cut, f"the memory is {found}, expected as in the newest snapshot {cut}")
    expect(memory.checksum(first, *THIRD) == kept, "the server that lost nothing has another memory")
    lab.step("a client that used the old memory gets an error")
    result, data = client.finish()
    transfer.expect_memory_lost(result, 1)
    transfer.expect_begun(data)


def it_finds_none(machine):
    service.expect_state(machine, "dsmd", "active")
    said = service.messages(machine, f"--boot --unit=dsmd MESSAGE_ID={RECOVERY} DSM_SERVER=1")
    expect("the memory was not restored, and waits" in said, f"dsmd does not say that it was not restored, but: {said}")
    result = machine.run(f"dsmctl read {SECOND[0]} 8", status=LATER)
    expect("server 1 is waiting for restore" in result.stderr, f"dsmctl does not say that the server waits: {result}")


def it_is_restored(machine, index, name):
    service.expect_state(machine, "dsmd", "active")
    ids = f"MESSAGE_ID={READY} MESSAGE_ID={RECOVERY}"
    entries = service.entries(machine, f"--boot --unit=dsmd {ids} DSM_SERVER={index}")[-2:]
    found = [entry["MESSAGE_ID"] for entry in entries]
    expect(found == [RECOVERY, READY], f"{machine.name}: dsmd did not recover, then get ready: {entries}")
    said = entries[0]["MESSAGE"]
    expect(said == f"the memory is again as it was in {name}", f"{machine.name}: dsmd says: {said}")
    expect(entries[0].get("DSM_FILE") == name, f"{machine.name}: the entry {entries[0]} has no DSM_FILE={name}")
