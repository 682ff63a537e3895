"""What can be done from inside a unit's sandbox: attempts, and what a process of the unit has.

Nothing but the unit's own program can be executed there. So for attempts bash, or another program, stands in its place;
everything else is as the installed unit file has it.
"""

from . import service
from .outcome import expect

# What attempts print, a line each: how it went, then what was tried.
DID, DID_NOT = "did", "did not"

UNIT, FOLDER = "attempts.service", "/var/tmp/attempts"

# Capabilities of a process that has none, and none to gain.
NOTHING = "0" * 16


def script(attempts):
    """Lines of bash that need no other program, from what each attempt does and the line that does it."""
    lines = [f"if ({line}); then echo '{DID}: {what}'; else echo '{DID_NOT}: {what}'; fi" for what, line in attempts.items()]
    return "".join(line + "\n" for line in lines)


def done(output):
    """What was done, of the attempts of a script."""
    pairs = [line.split(": ", 1) for line in output.splitlines()]
    expect(pairs and all(how in (DID, DID_NOT) for how, _ in pairs), f"the attempts printed: {output}")
    return {what for how, what in pairs if how == DID}


def run(machine, unit, program="/usr/bin/bash", arguments="-s", input=""):
    """Runs a program of the machine as the unit runs its own. Returns its exit status, output, and messages."""
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
    """`status` is the text of /proc/PID/status."""
    found = dict(line.split(":", 1) for line in status.splitlines())
    found = {name: value.strip() for name, value in found.items()}
    wanted = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NOTHING)
    # Filters of system calls; 2 is SECCOMP_MODE_FILTER.
    wanted |= {"NoNewPrivs": "1", "Seccomp": "2"}
    has = {name: found[name] for name in wanted}
    expect(has == wanted, f"{whose} has {has}, expected {wanted}")
    expect("0" not in found["Uid"].split() + found["Gid"].split(), f"{whose} runs as root: {found['Uid']}, {found['Gid']}")


def mounts(mountinfo):
    """Mount points and their options, from the text of /proc/PID/mountinfo; the last one hides those before."""
    fields = [line.split(" ") for line in mountinfo.splitlines()]
    return {line[4]: set(line[5].split(",")) for line in fields}
