"""Questions about systemd's units and journal, asked in a machine."""

import json

from .outcome import expect, wait_until


def show(machine, unit, *properties):
    """Properties of a unit, as systemd says them."""
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
    """How often systemd has started the unit again by itself."""
    return int(show(machine, unit, "NRestarts")["NRestarts"])


def drop_in(machine, unit, text):
    """What `systemctl edit UNIT` does."""
    machine.write(f"/etc/systemd/system/{unit}.d/override.conf", text)
    machine.run("systemctl daemon-reload")


def journal(machine, arguments):
    """What journalctl prints, of all that was logged before: journald may be a moment behind those who log."""
    return machine.read(f"journalctl --sync && journalctl --no-pager {arguments}")


def entries(machine, arguments):
    """Entries of the journal, the oldest first."""
    lines = journal(machine, f"--output=json --all {arguments}").splitlines()
    return [json.loads(line) for line in lines]


def messages(machine, arguments):
    """The messages of the journal, as one text."""
    return "\n".join(str(entry.get("MESSAGE")) for entry in entries(machine, arguments))


def since_now(machine):
    """An argument for journalctl: only what comes after now. (--after-cursor loses the first entry of those asked for.)"""
    return machine.read("journalctl --sync && date +--since=@%s.%6N")
