"""With the first machine off no snapshot is taken, and unit and journal say why; with --allow-partial the second takes one.

When the first machine is on again, it is the master and takes whole snapshots. After a reboot of all machines, a run fails
while the other machines are still down, and systemd restarts it until they are up.
"""

import json

from harness import cluster, service, snapshots
from harness.outcome import expect, wait_until

# The drop-in in dsm-snapshot(8).
ALLOW_PARTIAL = "[Service]\nExecStart=\nExecStart=/usr/sbin/dsm-snapshot create --allow-partial\n"

# The packaged unit restarts after two minutes.
SOON = "[Service]\nRestartSec=5s\n"

# The time after the boot of the last machine until the snapshot succeeds.
RETRIED_SECONDS = 90

# EX_UNAVAILABLE of sysexits.h.
UNAVAILABLE = "69"


def scenario(lab):
    machines = cluster.start(lab)
    first, second, third = machines
    second.run("dsmctl write 64MiB second && dsmctl write 128MiB third")
    lab.step("the first machine is shut down")
    first.power_off()
    lab.step("no snapshot is taken, and the unit says why")
    the_unit_fails(second)
    lab.step("with --allow-partial the second machine is the master")
    for machine in (second, third):
        service.drop_in(machine, "dsm-snapshot.service", ALLOW_PARTIAL)
    it_takes_a_partial_one(second)
    snapshots.expect_other_master(third, f"{second.address}:7412")
    lab.step("the first machine is on again, and takes a whole one")
    first.boot()
    it_takes_a_whole_one(first)
    lab.step("after a reboot of all, a run that is too early is restarted, and succeeds once all are up")
    service.drop_in(first, "dsm-snapshot.service", SOON)
    for machine in machines:
        machine.power_off()
    first.boot()
    it_is_tried_again(first, second, third)


def the_unit_fails(machine):
    since = service.since_now(machine)
    result = machine.run("systemctl start dsm-snapshot", status=1)
    expect("systemctl status dsm-snapshot.service" in result.stderr, f"systemctl does not say where to look: {result}")
    shown = service.show(machine, "dsm-snapshot", "Result", "ExecMainStatus")
    wanted = {"Result": "exit-code", "ExecMainStatus": UNAVAILABLE}
    expect(shown == wanted, f"dsm-snapshot is {shown}, expected {wanted}")
    snapshots.expect_retry(machine)
    snapshots.expect_reason(machine, since, "server 0", "10.0.0.1:7412", "cannot be reached", "--allow-partial")
    expect(not snapshots.files(machine), f"it wrote {snapshots.files(machine)}")
    snapshots.give_up(machine)


def it_is_tried_again(first, *others):
    before = snapshots.files(first)
    first.run("systemctl start dsm-snapshot", status=1)
    snapshots.expect_retry(first)
    for machine in others:
        machine.boot()
    new = lambda: set(snapshots.files(first)) - set(before)
    (name,) = wait_until("the snapshot to be tried again", lambda: service.state(first, "dsm-snapshot") == "inactive" and new(),
                         RETRIED_SECONDS)
    # Since the failed run, only systemd has started the unit.
    row = snapshots.listed(first)[-1]
    expect((row["name"], row["standing"]) == (name, "good"), f"dsmctl snapshot list shows {row}")


def it_takes_a_partial_one(machine):
    since = service.since_now(machine)
    machine.run("systemctl start dsm-snapshot")
    said = snapshots.said(machine, since)
    expect("server 0" in said and "10.0.0.1:7412" in said, f"it does not warn that server 0 is missing: {said}")
    (name,) = snapshots.files(machine)
    row = snapshots.listed(machine)[0]
    found = {key: row[key] for key in ("name", "standing", "servers", "n")}
    wanted = {"name": name, "standing": "partial", "servers": 2, "n": 3}
    expect(found == wanted, f"dsmctl snapshot list shows {found}, expected {wanted}")
    machine.run(f"dsmctl snapshot verify {name}")
    missing = json.loads(machine.read(f"dsmctl --json snapshot show {name}"))["servers"][0]
    expect(missing["incarnation"] is None, f"server 0 is off, and in the snapshot: {missing}")
    for address, text in (("64MiB", "second"), ("128MiB", "third")):
        found = machine.read(f"dsmctl snapshot export {name} - --range {address} {len(text)}")
        expect(found == text, f"at {address} the snapshot has {found!r}, expected {text!r}")


def it_takes_a_whole_one(machine):
    machine.run("systemctl start dsm-snapshot")
    row = snapshots.listed(machine)[0]
    expect(row["standing"] == "good", f"dsmctl snapshot list shows {row}")
