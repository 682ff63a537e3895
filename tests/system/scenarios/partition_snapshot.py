"""A snapshot before or during which the network is partitioned fails and says why; the next one after it is whole.

Writers do not wait for any of this, and no machine takes a snapshot of only the servers that it reaches.
"""

from harness import cluster, network, service, snapshots
from harness.outcome import expect, wait_until

# A snapshot so slow that the partition begins during it, and with a short timeout.
SLOW = '[snapshot]\ncompression = 19\ntimeout = "4s"\n'

DATA = ("128MiB", "24MiB")

# The timeout of a client: much less than those between master and agents.
CLIENT_TIMEOUT = "2s"

# An agent notices at once that its master has ended, and after 25 seconds that the master sends
# nothing.
NOTICED_SECONDS = 60


def scenario(lab):
    machines = cluster.start(lab, more=SLOW)
    first, second, third = machines
    second.run(f"head -c 24M /dev/urandom | dsmctl write {DATA[0]} -")
    lab.step("the first and the third machine cannot reach each other: no machine takes a snapshot")
    network.cut(first, third)
    none_is_taken(first)
    snapshots.expect_other_master(second, f"is the master, since its agent ({first.address}:7412)")
    snapshots.expect_other_master(third, f"is the master, since its agent ({second.address}:7412)")
    lab.step("the partition ends, and the next snapshot is whole")
    network.heal()
    whole = snapshots.take(first)
    is_whole(first, whole)
    lab.step("a partition begins during a snapshot")
    since = begin(first)
    network.cut(first, third)
    writers_are_served(second, third)
    it_is_abandoned(first, since, whole)
    lab.step("the partition ends, and the next snapshot is whole")
    network.heal()
    is_whole(first, next_one(first))


def none_is_taken(machine):
    since = service.since_now(machine)
    machine.run("systemctl start dsm-snapshot", status=1)
    snapshots.expect_retry(machine)
    snapshots.expect_reason(machine, since, "server 2 (10.0.0.3:7412)", "cannot be reached", "the network leads to it")
    expect(not snapshots.files(machine), f"{machine.name} has {snapshots.files(machine)}")
    snapshots.give_up(machine)


def is_whole(machine, name):
    machine.run(f"dsmctl snapshot verify {name}")
    found = {row["name"]: (row["standing"], row["servers"]) for row in snapshots.listed(machine)}
    expect(found.get(name) == ("good", 3), f"{name} is not good and of 3 servers: {found}")
    # `diff` compares the snapshot with the current memory.
    machine.run(f"dsmctl snapshot diff {name} --range {' '.join(DATA)}")


def begin(machine):
    since = service.since_now(machine)
    machine.run("systemctl start --no-block dsm-snapshot")
    wait_until("a snapshot to be under way", lambda: any(name.endswith(".partial") for name in snapshots.files(machine)))
    return since


def writers_are_served(second, third):
    dsmctl = f"dsmctl --timeout {CLIENT_TIMEOUT}"
    for machine in (second, third):
        machine.run(f"{dsmctl} fill {DATA[0]} 1MiB 7 && {dsmctl} read {DATA[0]} 8")


def it_is_abandoned(machine, since, whole):
    snapshots.expect_retry(machine)
    words = "server 2 (10.0.0.3:7412)", "did not send its pages within 4s", "no new file was written"
    snapshots.expect_reason(machine, since, *words)
    expect(snapshots.files(machine) == [whole], f"there are {snapshots.files(machine)}, expected only {whole}")


def next_one(machine):
    before = set(snapshots.files(machine))

    def taken():
        # `start` would wait for the automatic restart, and systemd refuses too many starts.
        machine.run("systemctl reset-failed dsm-snapshot; systemctl restart dsm-snapshot", status=None)
        return set(snapshots.files(machine)) - before

    (name,) = wait_until("a snapshot to succeed", taken, NOTICED_SECONDS)
    return name
