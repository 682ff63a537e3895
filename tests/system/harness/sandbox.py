"""Attempts to escape from a unit's sandbox, and the privileges of its processes.

A sandbox allows only the program of the unit. For an attempt, a bind mount replaces that program by
bash or another one. All other settings are those of the installed unit file.
"""

from . import service
from .outcome import expect

# Each attempt prints a line: its result, and what it tried.
DID, DID_NOT = "did", "did not"

UNIT, FOLDER = "attempts.service", "/var/tmp/attempts"

# An empty set of capabilities in /proc/PID/status.
NOTHING = "0" * 16


def script(attempts):
    """A bash script that needs no other program. `attempts` maps what is tried to its line of bash."""
    lines = [f"if ({line}); then echo '{DID}: {what}'; else echo '{DID_NOT}: {what}'; fi" for what, line in attempts.items()]
    return "".join(line + "\n" for line in lines)


def done(output):
    """The attempts that succeeded, from the output of a script."""
    pairs = [line.split(": ", 1) for line in output.splitlines()]
    expect(pairs and all(how in (DID, DID_NOT) for how, _ in pairs), f"the attempts printed: {output}")
    return {what for how, what in pairs if how == DID}


def run(machine, unit, program="/usr/bin/bash", arguments="-s", input=""):
    """Runs a program in the sandbox of the unit. Returns its exit status, its output, and its messages."""
    shown = service.show(machine, unit, "FragmentPath", "ExecStart")
    own = shown["ExecStart"].split("path=")[1].split(" ")[0]
    machine.write(f"{FOLDER}/in", input)
    machine.write(
        f"/etc/systemd/system/{UNIT}.d/attempts.conf",
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        f"ExecStart={own} {arguments}\n"
        f"StandardInput=file:{FOLDER}/in\nStandardOutput=truncate:{FOLDER}/out\nStandardError=truncate:{FOLDER}/messages\n",
    )
    machine.run(f"cp {shown['FragmentPath']} /etc/systemd/system/{UNIT} && systemctl daemon-reload")
    machine.run(f"mount --bind {program} {own}")
    try:
        machine.run(f"systemctl start {UNIT}", status=None)
    finally:
        machine.run(f"umount {own}")
    status = int(service.show(machine, UNIT, "ExecMainStatus")["ExecMainStatus"])
    output, messages = [machine.read(f"cat {FOLDER}/{name}") for name in ("out", "messages")]
    machine.run(f"systemctl reset-failed {UNIT}", status=None)
    return status, output, messages


def expect_no_privileges(status, whose):
    """Checks a process that has no privileges. `status` is the text of its /proc/PID/status."""
    found = dict(line.split(":", 1) for line in status.splitlines())
    found = {name: value.strip() for name, value in found.items()}
    wanted = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NOTHING)
    # 2 is SECCOMP_MODE_FILTER: a filter of system calls is active.
    wanted |= {"NoNewPrivs": "1", "Seccomp": "2"}
    has = {name: found[name] for name in wanted}
    expect(has == wanted, f"{whose} has {has}, expected {wanted}")
    expect("0" not in found["Uid"].split() + found["Gid"].split(), f"{whose} runs as root: {found['Uid']}, {found['Gid']}")


def mounts(mountinfo):
    """Mount points and their options, from the text of /proc/PID/mountinfo. A later mount hides an earlier one."""
    fields = [line.split(" ") for line in mountinfo.splitlines()]
    return {line[4]: set(line[5].split(",")) for line in fields}
