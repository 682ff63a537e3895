"""Three machines with one mcomp.cfg share one memory; a timer makes one of them write the whole memory to one file.

Their sockets start the agents for that, and idle agents end.
"""

from harness import cluster, service, snapshots
from harness.outcome import expect, wait_until

# Every second, so that the scenario does not wait long.
TIMER = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=100ms\nPersistent=false\n"

# An agent ends after 30 seconds without work.
IDLE_SECONDS = 60

# From 4 MiB before the end of the first server's share to 12 MiB after the beginning of the third
# one's.
ADDRESS, LENGTH = "60MiB", "80MiB"


def scenario(lab):
    machines = cluster.start(lab)
    one_memory(lab, machines)
    the_master_is_named(lab, machines)
    the_timer_fires(lab, machines)
    agents_end(lab, machines)


def one_memory(lab, machines):
    lab.step("a write over all three is read back on another machine")
    first, _, third = machines
    wrote = first.read(
        f"head -c 80M /dev/urandom > /var/tmp/data && dsmctl write {ADDRESS} --file /var/tmp/data && sha256sum < /var/tmp/data"
    )
    found = third.read(f"dsmctl read {ADDRESS} {LENGTH} | sha256sum")
    expect(found == wrote, f"the third machine read {found}, the first one wrote {wrote}")
    servers = first.read(f"dsmctl locate {ADDRESS} {LENGTH}").splitlines()
    expect(len(servers) == 3, f"the range is not on three servers: {servers}")


def the_master_is_named(lab, machines):
    lab.step("on a machine that is not the master, dsm-snapshot says who is, and writes nothing")
    snapshots.expect_other_master(machines[1], machines[0].address)


def the_timer_fires(lab, machines):
    lab.step("the timer fires on all machines, and the master writes")
    master = machines[0]
    for machine in machines:
        service.drop_in(machine, "dsm-snapshot.timer", TIMER)
        machine.run("systemctl start dsm-snapshot.timer")
    wait_until("a snapshot", lambda: [name for name in snapshots.files(master) if name.endswith(".dsnap")])
    for machine in machines:
        machine.run("systemctl stop dsm-snapshot.timer")
        wait_until("dsm-snapshot to end", lambda: service.state(machine, "dsm-snapshot") in ("inactive", "failed"))
        service.expect_state(machine, "dsm-snapshot", "inactive")
    for machine in machines[1:]:
        expect(not snapshots.files(machine), f"{machine.name} is not the master and has {snapshots.files(machine)}")
    newest = snapshots.files(master)[-1]
    shown = master.read(f"dsmctl snapshot verify {newest} && dsmctl snapshot list")
    expect("3 of 3" in shown, f"the snapshot is not of all three servers:\n{shown}")
    master.run(f"dsmctl snapshot export {snapshots.DIRECTORY}/{newest} - --range {ADDRESS} {LENGTH} | cmp - /var/tmp/data")


def agents_end(lab, machines):
    lab.step("the sockets have started the agents, and idle agents end")
    for machine in machines:
        said = service.messages(machine, "--boot _PID=1 --unit=dsm-snapshot-agent.service")
        expect("Started dsm-snapshot-agent.service" in said, f"{machine.name}: no agent was started: {said}")
        service.wait_for_state(machine, "dsm-snapshot-agent.service", "inactive", IDLE_SECONDS)
        service.expect_state(machine, "dsm-snapshot-agent.socket", "active")
