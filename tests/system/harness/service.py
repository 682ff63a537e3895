"""Reads the units and the journal of systemd in a machine."""

import json

from .outcome import expect, wait_until


def show(machine, unit, *properties):
    """Properties of a unit, from systemctl show."""
    arguments = " ".join(f"--property={name}" for name in properties)
    lines = machine.read(f"systemctl show {arguments} {unit}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def state(machine, unit):
    return show(machine, unit, "ActiveState")["ActiveState"]


def expect_state(machine, unit, wanted):
    found = state(machine, unit)
    expect(found == wanted, f"{machine.name}: {unit} is {found}, expected {wanted}")


def wait_for_state(machine, unit, wanted, seconds=30):
    wait_until(f"{unit} of {machine.name} to be {wanted}", lambda: state(machine, unit) == wanted, seconds)


def main_pid(machine, unit="dsmd"):
    return int(show(machine, unit, "MainPID")["MainPID"])


def restarts(machine, unit="dsmd"):
    """How often systemd has restarted the unit automatically."""
    return int(show(machine, unit, "NRestarts")["NRestarts"])


def drop_in(machine, unit, text):
    """Writes a drop-in, as `systemctl edit UNIT` does."""
    machine.write(f"/etc/systemd/system/{unit}.d/override.conf", text)
    machine.run("systemctl daemon-reload")


def journal(machine, arguments):
    """The output of journalctl, after journald has processed all earlier messages."""
    return machine.read(f"journalctl --sync && journalctl --no-pager {arguments}")


def entries(machine, arguments):
    """Entries of the journal, the oldest first."""
    lines = journal(machine, f"--output=json --all {arguments}").splitlines()
    return [json.loads(line) for line in lines]


def messages(machine, arguments):
    """The messages of the journal, as one text."""
    return "\n".join(str(entry.get("MESSAGE")) for entry in entries(machine, arguments))


def since_now(machine):
    """An argument of journalctl for the entries from now on. (--after-cursor loses the first matching entry.)"""
    return machine.read("journalctl --sync && date +--since=@%s.%6N")
