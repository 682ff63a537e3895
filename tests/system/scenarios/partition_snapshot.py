"""When the network falls apart, before a snapshot or amid one, it fails and says why; the next one after it heals is whole.

Those who write wait for none of that, and no machine takes a snapshot of its own side.
"""

from harness import cluster, network, service, snapshots
from harness.outcome import expect, wait_until

# Slow enough to be in the middle of it, and with a deadline that is short to wait for.
SLOW = '[snapshot]\ncompression = 19\ntimeout = "4s"\n'

DATA = ("128MiB", "24MiB")

# What a client is given: far less than what master and agents wait for each other.
PROMPT = "2s"

# An agent notices at once that its master has ended, or after 25 seconds that it is silent.
NOTICED_SECONDS = 60


def scenario(lab):
    machines = cluster.start(lab, more=SLOW)
    first, second, third = machines
    second.run(f"head -c 24M /dev/urandom | dsmctl write {DATA[0]} -")
    lab.step("the first and the third machine do not reach each other: nobody takes a snapshot")
    network.cut(first, third)
    none_is_taken(first)
    snapshots.expect_other_master(second, f"is the master, since its agent ({first.address}:7412)")
    snapshots.expect_other_master(third, f"is the master, since its agent ({second.address}:7412)")
    lab.step("the network is whole again, and so is the next snapshot")
    network.heal()
    whole = snapshots.take(first)
    is_whole(first, whole)
    lab.step("it falls apart amid a snapshot")
    since = begin(first)
    network.cut(first, third)
    writers_go_on(second, third)
    it_is_abandoned(first, since, whole)
    lab.step("the network is whole again, and so is the next snapshot")
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
    # diff compares with the memory as it is now.
    machine.run(f"dsmctl snapshot diff {name} --range {' '.join(DATA)}")


def begin(machine):
    since = service.since_now(machine)
    machine.run("systemctl start --no-block dsm-snapshot")
    wait_until("a snapshot to be under way", lambda: any(name.endswith(".partial") for name in snapshots.files(machine)))
    return since


def writers_go_on(second, third):
    for machine in (second, third):
        machine.run(f"dsmctl --timeout {PROMPT} fill {DATA[0]} 1MiB 7 && dsmctl --timeout {PROMPT} read {DATA[0]} 8")


def it_is_abandoned(machine, since, whole):
    snapshots.expect_retry(machine)
    words = "server 2 (10.0.0.3:7412)", "did not send its pages within 4s", "no new file was written"
    snapshots.expect_reason(machine, since, *words)
    expect(snapshots.files(machine) == [whole], f"there are {snapshots.files(machine)}, expected only {whole}")


def next_one(machine):
    before = set(snapshots.files(machine))

    def taken():
        # A start would wait for the next try, and too many are refused.
        machine.run("systemctl reset-failed dsm-snapshot; systemctl restart dsm-snapshot", status=None)
        return set(snapshots.files(machine)) - before

    (name,) = wait_until("a snapshot to succeed", taken, NOTICED_SECONDS)
    return name
