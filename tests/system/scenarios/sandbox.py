"""An attacker in a process of dsm can write almost nothing, execute nothing, and gain no privilege.

Only dsmd can read the operation log, and only group dsm can use the memory.
"""

from harness import sandbox, service
from harness.outcome import expect, wait_until

LOGS, SNAPSHOTS, SHARED_MEMORY = "/var/log/dsm", "/var/lib/dsm-snapshot", "/dev/shm"

LOG = f"{LOGS}/operations-0.log"

# Each unit, its user, and its folder.
UNITS = {
    "dsmd": ("dsm", LOGS),
    "dsmd@0": ("dsm", LOGS),
    "dsm-snapshot-agent": ("dsm-snapshot", None),
    "dsm-snapshot": ("dsm-snapshot", SNAPSHOTS),
}

# Folders that this scenario makes writable for all users. Only the sandbox forbids it.
OPEN = ["/etc", "/home", "/root", "/usr", "/usr/lib", "/usr/sbin", "/boot", "/opt", "/srv", "/run", "/var/lib", "/var/cache"]

# Shells that all users may execute. Only the sandbox forbids it. On many machines klibc has one in
# /usr/lib.
SHELLS = ["/bin/sh", "/usr/lib/klibc/bin/sh", "/run/open/sh", f"{SHARED_MEMORY}/sh"]

# Where a process of dsm may write, except for its folder. Its /tmp is private.
WRITABLE = {SHARED_MEMORY, "/tmp", "/var/tmp"}

# Mounts of the kernel, of systemd and of nspawn, which belong to root.
OTHERS = ("/proc", "/sys/fs/cgroup", "/dev/pts", "/dev/mqueue", "/dev/hugepages", "/run/systemd/incoming", "/run/host")

# Programs whose system calls the kernel allows to all users, and the sandbox refuses.
REFUSED = {"/usr/bin/taskset": "1 /bin/true", "/usr/bin/chgrp": "{group} /dev/shm/{user}", "/usr/bin/unshare": "--user /bin/true"}


def scenario(lab):
    machine = lab.machine()
    lab.install(machine)
    machine.run("systemctl stop dsm-snapshot.timer && useradd --groups dsm alice && useradd bob")
    lab.step("only members of group dsm can use the memory")
    only_the_group_uses_the_memory(machine)
    lab.step("only dsmd can read the operation log")
    only_dsmd_reads_the_log(machine)
    lab.step("the running processes have no privileges, and cannot execute a file that they can write")
    running_processes_are_confined(machine)
    make_everything_open(machine)
    for unit in UNITS:
        lab.step(f"in the sandbox of {unit}: only its folders are writable, and only its program is executable")
        attempts_fail(machine, unit)
        system_calls_are_refused(machine, unit)


def only_the_group_uses_the_memory(machine):
    files = machine.read(f"find {SHARED_MEMORY} -type f -user dsm").split()
    # The segment, its copy area, and at least the semaphores of 64 stripes.
    expect(len(files) >= 66, f"there are only {len(files)} files of dsm: {files}")
    attempts = {f"open {file}": f"exec 3<>{file}" for file in files} | {f"read {file}": f"exec 3<{file}" for file in files}
    for user, wanted in (("alice", set(attempts)), ("bob", set())):
        found = sandbox.done(machine.read("bash -s 2>/dev/null", user=user, input=sandbox.script(attempts)))
        expect(found == wanted, f"{user} could: {sorted(found)}, expected: {sorted(wanted)}")
        machine.run(f"rm --force {' '.join(files)}", status=1, user=user)
    machine.run("systemctl start dsm-snapshot")
    machine.run(f"cat {SNAPSHOTS}/*.dsnap | cmp --bytes=4 - {SNAPSHOTS}/*.dsnap", user="alice")
    machine.run(f"ls {SNAPSHOTS}", status=2, user="bob")


def only_dsmd_reads_the_log(machine):
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


def running_processes_are_confined(machine):
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
        expect(executable <= {program} | libraries, f"{unit} can execute files in {executable}")
        # root uses the file system of the process.
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
    # Without LOGS for dsm-snapshot: file permissions already forbid it, without the sandbox.
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
    expect(found == wanted, f"in the sandbox of {unit} these succeed: {sorted(found)}, expected: {sorted(wanted)}. Messages: {messages}")
    machine.run("ls /tmp/made /var/tmp/made", status=2)
    # dsm-snapshot ends too soon for running_processes_are_confined.
    _, status, _ = sandbox.run(machine, unit, input="while read -r line; do echo \"$line\"; done < /proc/self/status")
    sandbox.expect_no_privileges(status, unit)


def system_calls_are_refused(machine, unit):
    user = UNITS[unit][0]
    group = machine.read(f"id --group {user}")
    for program, arguments in REFUSED.items():
        arguments = arguments.format(user=user, group=group)
        machine.run(f"{program} {arguments}", user=user)
        status, _, messages = sandbox.run(machine, unit, program, arguments)
        expect(status == 1 and "Operation not permitted" in messages, f"in the sandbox of {unit}, {program} ended with {status}: {messages}")
