"""With on_memory_loss = "wait" a machine that lost its memory does not serve it until the administrator decides.

The administrator accepts zeros, or restores its part of a snapshot. Clients of the old memory get an error in both cases.
"""

from harness import cluster, memory, service, snapshots, transfer
from harness.outcome import expect, wait_until

WAIT = '[recovery]\non_memory_loss = "wait"\n'

FIRST, SECOND = ("0", "64MiB"), ("64MiB", "64MiB")

# packaging/systemd/dsm.catalog
WAITS, REPLACED = "8385254ea8c848d18770d90a977e29e2", "48bcd29ffb794153bff3dc84a0af4478"

# EX_DATAERR and EX_TEMPFAIL of sysexits.h.
IN_USE, LATER = 65, 75


def scenario(lab):
    machines = cluster.start(lab, more=WAIT)
    first, second, third = machines
    # The first server has the memory of the packaged configuration; the others have no memory yet
    # and wait.
    first.run("dsmctl memory accept-empty")
    first.run("head -c 80M /dev/urandom | dsmctl write 60MiB -")
    kept, lost = (memory.checksum(first, *share) for share in (FIRST, SECOND))
    snapshot = snapshots.take(first)
    client, other = (transfer.reading(third, *SECOND) for _ in range(2))
    lab.step("the second machine loses power, boots, and waits")
    power_cut(second)
    it_waits(first, client)
    expect(memory.checksum(third, *FIRST) == kept, "a server that lost nothing has another memory")
    lab.step("no snapshot is taken of a memory that waits")
    none_is_taken(first)
    lab.step("zeros are accepted")
    zeros_are_accepted(first, other)
    lab.step("it loses power again; its part of the snapshot is restored")
    power_cut(second)
    its_part_is_restored(first, second, snapshot, lost)


def power_cut(machine):
    machine.power_cut()
    machine.boot()
    service.expect_state(machine, "dsmd", "active")
    said = service.messages(machine, f"--boot --unit=dsmd MESSAGE_ID={WAITS} DSM_SERVER=1")
    expect("waits for a restore" in said, f"dsmd does not say that its memory waits, but: {said}")
    shown = service.show(machine, "dsmd", "StatusText")["StatusText"]
    expect("waiting for restore" in shown, f"systemctl status dsmd shows: {shown}")


def expect_refused(result):
    told = "server 1 (10.0.0.2:7411) refused (restoring): server 1 is waiting for restore"
    expect(result.status == LATER and told in result.stderr, f"expected exit status {LATER} and {told!r}:\n{result}")


def it_waits(machine, client):
    found = [server["memory"] for server in memory.servers(machine)]
    wanted = ["in use", "waiting for restore", "in use"]
    expect(found == wanted, f"dsmctl status shows {found}, expected {wanted}")
    for command in (f"read {SECOND[0]} 8", f"write {SECOND[0]} x", f"add {SECOND[0]} 1"):
        expect_refused(machine.run(f"dsmctl {command}", status=LATER))
    result, data = client.finish()
    expect_refused(result)
    transfer.expect_begun(data)


def none_is_taken(machine):
    before, since = snapshots.files(machine), service.since_now(machine)
    machine.run("systemctl start dsm-snapshot", status=1)
    snapshots.expect_reason(machine, since, "server 1 (10.0.0.2:7412)", "waiting for restore", "dsmctl memory accept-empty")
    expect(snapshots.files(machine) == before, f"there are {snapshots.files(machine)}, expected {before}")
    snapshots.give_up(machine)


def zeros_are_accepted(machine, client):
    result = machine.run("dsmctl memory accept-empty 0", status=IN_USE)
    expect("server 0 is in use" in result.stderr, f"dsmctl does not say that server 0 has its memory: {result}")
    said = machine.read("dsmctl memory accept-empty")
    expect(said.startswith("server 1 begins with zeros") and "\n" not in said, f"accept-empty says {said}")
    memory.expect_zeros(machine, *SECOND)
    result, data = client.finish()
    transfer.expect_memory_lost(result, 1)
    transfer.expect_begun(data)


def its_part_is_restored(machine, second, snapshot, lost):
    part = machine.run(f"dsmctl snapshot restore {snapshot} --range {SECOND[0]} 4096", status=IN_USE)
    expect("--range 67108864 67108864" in part.stderr, f"dsmctl does not say which range can be restored: {part}")
    expect_refused(machine.run(f"dsmctl read {SECOND[0]} 8", status=LATER))
    machine.run(f"dsmctl snapshot restore {snapshot} --range {' '.join(SECOND)}")
    found = memory.checksum(machine, *SECOND)
    expect(found == lost, f"server 1 has {found} after the restore, expected {lost}")
    arguments = f"--boot --unit=dsmd MESSAGE_ID={REPLACED} DSM_SERVER=1"
    wait_until("dsmd to say that its memory was replaced", lambda: service.messages(second, arguments))
