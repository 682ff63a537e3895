"""An upgrade under load loses nothing; a removal keeps the memory; a purge removes it, and keeps the snapshots.

Two machines with the packages of an older version: one runs dsmd, the other two instances of dsmd@. The segments get the
format of the new version, one of them while a local client of the older one has it mapped. The operation log is also
rotated under load.
"""

import hashlib

from harness import cluster, memory, service, snapshots, transfer
from harness.load import Load
from harness.outcome import expect, wait_until

SNAPSHOTS, LOGS = "/var/lib/dsm-snapshot", "/var/log/dsm"

# Three servers, the last two on the second machine.
CONFIG = """k = "64MiB"
n = 3
[[server]]
address = "10.0.0.1:7411"
[[server]]
address = "10.0.0.2:7411"
[[server]]
address = "10.0.0.2:7421"
[security]
trusted_network = true
[log]
operations = "writes"
"""

MIB = 1 << 20

# The address of each program's counter, one on each server, and that of the counter that all
# programs share.
COUNTERS = {"first": 4 * MIB, "second": 68 * MIB, "third": 190 * MIB}
SHARED = 69 * MIB

# The formats of the segments. The older version does not tell its own.
BEFORE, AFTER = None, 4

AGENT, SOCKET = "dsm-snapshot-agent.service", "dsm-snapshot-agent.socket"

# Whether a socket listens, and since which start of its unit.
LISTENING = ("ActiveState", "InvocationID")

PARTIAL = "[Service]\nExecStart=\nExecStart=/usr/sbin/dsm-snapshot create --allow-partial\n"


def scenario(lab):
    units = start(lab)
    one, two = units
    kept = memory.Kept(one)
    incarnations = [server["incarnation"] for server in memory.servers(one)]
    expect_formats(one, BEFORE)
    load = start_load(one, two)
    for machine in units:
        upgrade(lab, machine, units[machine])
        load.wait_for_steps()
    expect_formats(one, AFTER)
    for machine in units:
        logs_are_rotated(lab, machine, units[machine], load)
    lab.step("the load ends: no addition was lost or executed twice")
    steps, longest = load.stop()
    lab.step(f"it made {steps} steps; the longest took {max(longest.values()):.2f} s")
    counters_are_exact(one, two, steps)
    kept.expect("after the upgrade")
    found = [server["incarnation"] for server in memory.servers(one)]
    expect(found == incarnations, f"the upgrade changed incarnations from {incarnations} to {found}")
    snapshot = take_snapshot(one)
    a_removal_keeps_the_memory(lab, one, kept)
    lab.step("a purge removes the memory, and keeps the snapshots and says so")
    said = purge(one)
    expect(f"the snapshots in {SNAPSHOTS} are kept" in said, f"the purge does not say that it keeps snapshots: {said}")
    found = one.read(f"find {SNAPSHOTS} -type f").split()
    expect(found == [f"{SNAPSHOTS}/{snapshot}"], f"after the purge there are the snapshots {found}")
    lab.step("a purge ends running instances, and leaves nothing where there are no snapshots")
    purge(two)
    two.run(f"test -e {SNAPSHOTS}", status=1)
    # Last, because CONFIG has the addresses of the first two machines that boot.
    an_upgrade_keeps_an_unchanged_configuration(lab)


class LocalClient:
    """A dsmctl in the middle of a write to the share of the same machine, which has the memory mapped until it ends."""

    ADDRESS = 8 * MIB

    def __init__(self, machine):
        self.machine, self.data = machine, [bytes([value]) * transfer.STEP for value in (1, 2)]
        # The older version uses the shared memory of the same user only.
        self.write = transfer.writing(machine, self.ADDRESS, self.data[0], user="dsm")
        find = "grep --files-with-matches --no-messages /dev/shm/dsm.0 $(ps -C dsmctl -o pid= | sed 's|.*|/proc/&/maps|; s| ||g')"
        wait_until("the client has the memory mapped", lambda: machine.run(find, status=None).status == 0)

    def finish(self):
        result, _ = self.write.finish(self.data[1])
        expect(result.status == 0, f"the client of the older package failed: {result}")
        expected = hashlib.sha256(b"".join(self.data)).hexdigest()
        found = self.machine.read(f"set -o pipefail; dsmctl read {self.ADDRESS} {2 * transfer.STEP} | sha256sum").split()[0]
        expect(found == expected, "the memory has other bytes than the client of the older package wrote")


def expect_formats(machine, wanted):
    found = [server.get("format") for server in memory.servers(machine)]
    expect(found == [wanted] * len(found), f"the segments have the formats {found}, expected {wanted}")


def an_upgrade_keeps_an_unchanged_configuration(lab):
    lab.step("an upgrade with the mcomp.cfg of the older package asks nothing, and keeps it, its k and the memory")
    machine = lab.machine()
    lab.install(machine, lab.packages_before())
    kept = memory.Kept(machine)
    snapshot = snapshots.take(machine)
    client = LocalClient(machine)
    before = machine.read("sha256sum /etc/mcomp.cfg")
    k = memory.servers(machine)[0]["k"]
    lab.install(machine)
    expect(machine.read("sha256sum /etc/mcomp.cfg") == before, "the upgrade changed mcomp.cfg")
    machine.run("ls /etc/mcomp.cfg.*", status=2)
    service.expect_state(machine, "dsmd", "active")
    expect(memory.servers(machine)[0]["k"] == k, f"the upgrade changed k, which was {k}")
    kept.expect("after the upgrade of an unchanged mcomp.cfg")
    lab.step("the local client of the older package, which had the memory mapped, continues and loses nothing")
    client.finish()
    lab.step("a snapshot of the older package is restored")
    machine.run(f"dsmctl fill {memory.ADDRESS} {memory.LENGTH} 7")
    machine.run(f"dsmctl snapshot restore --force {snapshots.DIRECTORY}/{snapshot}")
    machine.run(f"dsmctl read {memory.ADDRESS} {memory.LENGTH} | cmp {memory.DATA} -")
    lab.step("after a purge a new installation has the mcomp.cfg of its package")
    machine.run("apt-get purge --yes dsmd dsmctl && test ! -e /etc/mcomp.cfg")
    lab.install(machine)
    machine.run("cmp /etc/mcomp.cfg /usr/share/dsmctl/mcomp.cfg && dsmctl ping")


def start(lab):
    """Boots both machines with the older packages. Returns the running units of each."""
    before = lab.packages_before()
    one, two = lab.machine(), lab.machine()
    for machine in (one, two):
        lab.install(machine, before)
        machine.write("/etc/mcomp.cfg", CONFIG)
    service.drop_in(one, "dsm-snapshot.service", PARTIAL)
    cluster.listen(one)
    # The packaged k of the older version may be another one.
    one.run("systemctl stop dsmd && rm -f /dev/shm/dsm.* /dev/shm/sem.dsm.* && systemctl start dsmd")
    two.run("systemctl disable --now dsmd && systemctl enable --now dsmd@1 dsmd@2")
    one.run("dsmctl ping")
    return {one: ["dsmd"], two: ["dsmd@1", "dsmd@2"]}


def start_load(one, two):
    programs = [
        ("first", one, f"adder {COUNTERS['first']} {SHARED}"),
        ("second", one, f"adder {COUNTERS['second']} {SHARED}"),
        ("third", two, f"adder {COUNTERS['third']} {SHARED}"),
        # Across the end of the first server's share.
        ("writer", one, f"writer {64 * MIB - 32768}"),
        ("stream1", one, f"stream {16 * MIB} 5 first"),
        # Across the end of the second server's share.
        ("stream2", two, f"stream {104 * MIB} 8 third"),
    ]
    return Load(programs)


def version(machine):
    return machine.read("dpkg-query --show --showformat '${Version}' dsmd")


def upgrade(lab, machine, units):
    before = {unit: service.main_pid(machine, unit) for unit in units}
    agent, socket = service.main_pid(machine, AGENT), service.show(machine, SOCKET, *LISTENING)
    old = version(machine)
    lab.install(machine, options="--option=Dpkg::Options::=--force-confold")
    lab.step(f"{machine.name} is upgraded from {old} to {version(machine)}")
    machine.run(f"dpkg --compare-versions {old} lt {version(machine)}")
    for unit, pid in before.items():
        service.expect_state(machine, unit, "active")
        now = service.main_pid(machine, unit)
        expect(now != pid, f"{machine.name}: {unit} was not restarted by the upgrade")
        program = machine.read(f"readlink /proc/{now}/exe")
        expect(program == "/usr/sbin/dsmd", f"{machine.name}: {unit} runs {program}")
        shown = service.show(machine, unit, "NRestarts", "NeedDaemonReload")
        expect(shown == {"NRestarts": "0", "NeedDaemonReload": "no"}, f"{machine.name}: {unit} is {shown}")
    expect(service.show(machine, SOCKET, *LISTENING) == socket, f"{machine.name}: the upgrade interrupted {SOCKET}")
    expect(agent == 0 or service.main_pid(machine, AGENT) != agent, f"{machine.name}: {AGENT} was not restarted by the upgrade")
    others = machine.read("systemctl list-units --plain --no-legend --state=active 'dsmd*.service' | cut -d. -f1").split()
    expect(others == units, f"{machine.name} runs {others} after the upgrade, expected {units}")


def logs_are_rotated(lab, machine, units, load):
    lab.step(f"the operation log of {machine.name} is rotated, and continues in a new file")
    logs = [f"{LOGS}/operations-{index}.log" for index in ("0" if units == ["dsmd"] else "12")]
    for command in ("logrotate --force /etc/logrotate.d/dsmd", "logrotate --force /etc/logrotate.conf"):
        machine.run(command)
        for log in logs:
            machine.run(f"test -s {log}.1")
            wait_until(f"lines in a new {log}", lambda: machine.run(f"test -s {log}", status=None).status == 0)
    for log in logs:
        machine.run(f"gzip --test {log}.2.gz")
        expect(machine.read(f"stat --format='%a %U %G' {log}") == "640 dsm dsm", f"other users than dsmd's can use {log}")
    load.wait_for_steps()


def counters_are_exact(one, two, steps):
    expected = {address: steps[name] for name, address in COUNTERS.items()}
    expected[SHARED] = sum(expected.values())
    for address, wanted in expected.items():
        found = one.read(f"dsmctl read {address} 8 --format u64")
        expect(found == str(wanted), f"the counter at {address} is {found}, and {wanted} additions were acknowledged")
        lines = sum(
            int(machine.read(f"zcat --force {LOGS}/* | grep --count ' fetch-add 0x{address:016x} 8 ok '", status=None))
            for machine in (one, two)
        )
        expect(lines == wanted, f"the operation logs have {lines} additions at {address}, expected {wanted}")


def take_snapshot(machine):
    machine.run("systemctl start dsm-snapshot")
    found = machine.read(f"ls {SNAPSHOTS}").split()
    expect(len(found) == 1, f"there are the snapshots {found}")
    return found[0]


def a_removal_keeps_the_memory(lab, machine, kept):
    lab.step("a removal keeps memory, snapshots and mcomp.cfg")
    list_files = f"find /dev/shm -user dsm -not -name '*.kept' | sort; sha256sum {SNAPSHOTS}/* /etc/mcomp.cfg; wc --lines {LOGS}/*"
    before = machine.read(list_files)
    machine.run("apt-get remove --yes dsmd dsmctl")
    expect_nothing_runs(machine)
    found = machine.read(list_files)
    expect(found == before, f"a removal left:\n{found}\nof:\n{before}")
    lab.install(machine)
    lab.step("after a new installation the memory is the same")
    service.expect_state(machine, "dsmd", "active")
    kept.expect("after a removal")


def expect_nothing_runs(machine):
    found = machine.read("ps -o pid,user,args -u dsm,dsm-snapshot --no-headers", status=None)
    expect(not found, f"{machine.name} still runs {found}")
    machine.run("ls /usr/sbin/dsm* /usr/bin/dsmctl", status=2)


def purge(machine):
    said = machine.read("apt-get purge --yes dsmd dsmctl")
    expect_nothing_runs(machine)
    # The purge keeps the folder of the snapshots, and the users: a new user must not become the
    # owner of these files.
    left = machine.read(f"find / -xdev -path {SNAPSHOTS} -prune -o '(' -user dsm -o -user dsm-snapshot -o -group dsm ')' -print")
    left += machine.read("find /dev/shm -type f")
    left += machine.read(f"ls --directory /etc/mcomp.cfg {LOGS} /etc/logrotate.d/dsmd 2>/dev/null", status=2)
    state = "/var/lib/systemd/deb-systemd-helper-enabled /var/lib/systemd/timers"
    left += machine.read(f"find /etc/systemd/system {state} -name '*dsm*' -not -name '*.d'")
    expect(not left, f"{machine.name}: a purge left:\n{left}")
    machine.run("getent passwd dsm dsm-snapshot")
    return said
