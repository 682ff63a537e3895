"""Whoever takes over a process of dsm can write next to nothing, execute nothing, and has no privilege to gain.

The operation log is dsmd's alone, and the memory is for group dsm and nobody else.
"""

from harness import sandbox, service
from harness.outcome import expect, wait_until

LOGS, SNAPSHOTS, SHARED_MEMORY = "/var/log/dsm", "/var/lib/dsm-snapshot", "/dev/shm"

LOG = f"{LOGS}/operations-0.log"

# Each unit, its user, and the folder that is its own.
UNITS = {
    "dsmd": ("dsm", LOGS),
    "dsmd@0": ("dsm", LOGS),
    "dsm-snapshot-agent": ("dsm-snapshot", None),
    "dsm-snapshot": ("dsm-snapshot", SNAPSHOTS),
}

# Where everybody may write, but for the sandbox, because this scenario makes it so.
OPEN = ["/etc", "/home", "/root", "/usr", "/usr/lib", "/usr/sbin", "/boot", "/opt", "/srv", "/run", "/var/lib", "/var/cache"]

# Shells that everybody may execute, but for the sandbox. klibc has one in /usr/lib on many machines.
SHELLS = ["/bin/sh", "/usr/lib/klibc/bin/sh", "/run/open/sh", f"{SHARED_MEMORY}/sh"]

# Where a process of dsm may write, beside the folder of its own; /tmp is no other process's.
WRITABLE = {SHARED_MEMORY, "/tmp", "/var/tmp"}

# Mounts of the kernel, of systemd and of nspawn: what is in them is root's.
OTHERS = ("/proc", "/sys/fs/cgroup", "/dev/pts", "/dev/mqueue", "/dev/hugepages", "/run/systemd/incoming", "/run/host")

# Programs that ask the kernel for something that it grants to everybody, and the sandbox to nobody.
REFUSED = {"/usr/bin/taskset": "1 /bin/true", "/usr/bin/chgrp": "{group} /dev/shm/{user}", "/usr/bin/unshare": "--user /bin/true"}


def scenario(lab):
    machine = lab.machine()
    lab.install(machine)
    machine.run("systemctl stop dsm-snapshot.timer && useradd --groups dsm alice && useradd bob")
    lab.step("the memory is for members of group dsm, and for nobody else")
    the_memory_is_the_groups(machine)
    lab.step("the operation log is dsmd's, and nobody else's")
    the_log_is_dsmds(machine)
    lab.step("what runs has no privileges, and nothing that it can write can be executed")
    what_runs_is_shut_in(machine)
    make_everything_open(machine)
    for unit in UNITS:
        lab.step(f"from inside {unit}: nothing is written but what is its own, nothing is executed")
        attempts_fail(machine, unit)
        system_calls_are_refused(machine, unit)


def the_memory_is_the_groups(machine):
    files = machine.read(f"find {SHARED_MEMORY} -type f -user dsm").split()
    # The segment, its copies, and the semaphores of 64 stripes at least.
    expect(len(files) >= 66, f"there are only {len(files)} files of dsm: {files}")
    attempts = {f"open {file}": f"exec 3<>{file}" for file in files} | {f"read {file}": f"exec 3<{file}" for file in files}
    for user, wanted in (("alice", set(attempts)), ("bob", set())):
        found = sandbox.done(machine.read("bash -s 2>/dev/null", user=user, input=sandbox.script(attempts)))
        expect(found == wanted, f"{user} could: {sorted(found)}, expected: {sorted(wanted)}")
        machine.run(f"rm --force {' '.join(files)}", status=1, user=user)
    machine.run("systemctl start dsm-snapshot")
    machine.run(f"cat {SNAPSHOTS}/*.dsnap | cmp --bytes=4 - {SNAPSHOTS}/*.dsnap", user="alice")
    machine.run(f"ls {SNAPSHOTS}", status=2, user="bob")


def the_log_is_dsmds(machine):
    machine.run("sed --in-place 's/^#operations = .*/operations = \"all\"/' /etc/mcomp.cfg && systemctl reload dsmd")
    wait_until(f"a line in {LOG}", lambda: machine.run(f"dsmctl write 0 x && test -s {LOG}", status=None).status == 0)
    machine.run(f"cat {LOG}", user="dsm")
    for user in ("dsm-snapshot", "alice", "bob"):
        machine.run(f"cat {LOG}", status=1, user=user)
        machine.run(f"ls {LOGS}", status=2, user=user)
    attempts = {"read the log": f": < {LOG}", "read its folder": f"[[ -r {LOGS} ]]"}
    for unit in ("dsm-snapshot-agent", "dsm-snapshot"):
        _, output, messages = sandbox.run(machine, unit, input=sandbox.script(attempts))
        found = sandbox.done(output)
        expect(not found, f"{unit} can {found}: {messages}")


def what_runs_is_shut_in(machine):
    machine.run("systemctl start dsm-snapshot")
    for unit in ("dsmd", "dsm-snapshot-agent"):
        place, own = f"/proc/{service.main_pid(machine, unit)}", UNITS[unit][1]
        sandbox.expect_no_privileges(machine.read(f"cat {place}/status"), unit)
        mounts = sandbox.mounts(machine.read(f"cat {place}/mountinfo"))
        mounts = {point: options for point, options in mounts.items() if not point.startswith(OTHERS)}
        writable = {point for point, options in mounts.items() if "ro" not in options}
        executable = {point for point, options in mounts.items() if "noexec" not in options}
        program = machine.read(f"readlink {place}/exe")
        libraries = {point for point in executable if point.startswith("/usr/lib")}
        expect(writable <= WRITABLE | {own}, f"{unit} can write in {writable}")
        expect(executable <= {program} | libraries, f"{unit} can execute what is in {executable}")
        # root's view through the process's own eyes.
        machine.run(f"{place}/root/bin/sh -c :", status=126)
        machine.run(f"cp /bin/sh {place}/root/tmp/sh && {place}/root/tmp/sh -c :", status=126)
        machine.run(f"touch {place}/root/etc/made", status=1)


def make_everything_open(machine):
    machine.run("chmod 0755 /root && mkdir --parents /usr/lib/klibc/bin")
    for folder in [*OPEN, LOGS, SNAPSHOTS]:
        machine.run(f"mkdir {folder}/open && chmod 1777 {folder}/open")
    for shell in [*SHELLS[1:], f"{LOGS}/sh", f"{SNAPSHOTS}/sh"]:
        machine.run(f"cp /bin/sh {shell} && chmod 0755 {shell}")
    for user in ("dsm", "dsm-snapshot"):
        machine.run(f"touch {SHARED_MEMORY}/{user}", user=user)


def attempts_fail(machine, unit):
    user, own = UNITS[unit]
    # Folders that nobody but their user reaches are not asked for.
    foreign = [folder for folder in (LOGS, SNAPSHOTS) if (user, folder) != ("dsm-snapshot", LOGS)]
    writes = {f"write in {folder}": f": > {folder}/open/made" for folder in [*OPEN, *foreign]}
    writes |= {f"write in {folder}": f": > {folder}/made" for folder in WRITABLE}
    executes = {f"execute {shell}": f"{shell} -c :" for shell in [*SHELLS, *(f"{folder}/sh" for folder in foreign)]}
    executes["execute by the dynamic linker"] = "for linker in /usr/lib/*/ld*.so.[0-9]; do $linker /bin/sh -c :; done"
    attempts = writes | executes | {"see other processes": "[[ -e /proc/1 ]]"}
    script = sandbox.script(attempts)
    remove = f"rm --force {{{','.join([*OPEN, LOGS, SNAPSHOTS])}}}/open/made {{{','.join(WRITABLE)}}}/made"
    machine.run(remove)
    free = sandbox.done(machine.read("bash -s", user=user, input=script))
    expect(free == set(attempts), f"without the sandbox, {user} cannot {set(attempts) - free}")
    machine.run(remove)
    _, output, messages = sandbox.run(machine, unit, input=script)
    found = sandbox.done(output)
    wanted = {f"write in {folder}" for folder in WRITABLE | {own} if folder}
    expect(found == wanted, f"inside {unit} one can: {sorted(found)}, expected: {sorted(wanted)}. It said: {messages}")
    machine.run("ls /tmp/made /var/tmp/made", status=2)
    # dsm-snapshot is gone too soon to be looked at.
    _, status, _ = sandbox.run(machine, unit, input="while read -r line; do echo \"$line\"; done < /proc/self/status")
    sandbox.expect_no_privileges(status, unit)


def system_calls_are_refused(machine, unit):
    user = UNITS[unit][0]
    group = machine.read(f"id --group {user}")
    for program, arguments in REFUSED.items():
        arguments = arguments.format(user=user, group=group)
        machine.run(f"{program} {arguments}", user=user)
        status, _, messages = sandbox.run(machine, unit, program, arguments)
        expect(status == 1 and "Operation not permitted" in messages, f"inside {unit}, {program} ended with {status}: {messages}")
