"""The snapshots of a machine, and why one was not taken."""

import json

from . import service
from .outcome import expect, wait_until

DIRECTORY = "/var/lib/dsm-snapshot"

# packaging/systemd/dsm.catalog
FAILED = "c521baed1c7b41928b2c5c7790fd4b08"
EXPLANATION = ["No snapshot of the shared memory was taken", "A server is missing: check that its machine is up"]


def files(machine):
    """The names of all files where snapshots are."""
    return machine.read(f"ls {DIRECTORY}").split()


def listed(machine):
    """What dsmctl snapshot list says of each, the oldest first."""
    return json.loads(machine.read("dsmctl --json snapshot list"))


def take(machine):
    """Takes a snapshot, as the timer does, and returns its name."""
    before = files(machine)
    machine.run("systemctl start dsm-snapshot")
    (name,) = set(files(machine)) - set(before)
    return name


def said(machine, arguments):
    """What the program has said: agents too, and not only those whose unit journald has found out.

    It looks for that only when it reads a message, by when the process may have ended.
    """
    return service.messages(machine, f"--identifier=dsm-snapshot {arguments}")


def expect_retry(machine):
    """Waits until a run has failed that systemd will try again."""
    def waits():
        return service.show(machine, "dsm-snapshot", "ActiveState", "SubState")

    wanted = {"ActiveState": "activating", "SubState": "auto-restart"}
    wait_until(f"dsm-snapshot of {machine.name} to wait for its next try", lambda: waits() == wanted)


def give_up(machine):
    """Ends the tries."""
    machine.run("systemctl stop dsm-snapshot; systemctl reset-failed dsm-snapshot", status=None)


def expect_other_master(machine, *words):
    """On a machine that is not the master dsm-snapshot names the one that is, with all the words, and writes nothing."""
    before, since = files(machine), service.since_now(machine)
    machine.run("systemctl start dsm-snapshot")
    text = said(machine, since)
    for word in words:
        expect(word in text, f"{machine.name} does not say {word!r} of the master, but: {text}")
    expect(files(machine) == before, f"{machine.name} is not the master, and has written {files(machine)}")


def expect_reason(machine, since, *words):
    """Unit and journal say why there is no snapshot, in one sentence with all the words, and the journal explains it."""
    arguments = f"MESSAGE_ID={FAILED} {since}"
    status = service.show(machine, "dsm-snapshot", "StatusText")["StatusText"]
    for where, text in (("systemctl status", status), ("the journal", said(machine, arguments))):
        for word in words:
            expect(word in text, f"{where} does not say {word!r} of a snapshot that failed, but: {text}")
    text = service.journal(machine, f"--catalog {arguments}")
    for line in EXPLANATION:
        expect(line in text, f"journalctl -x does not explain with {line!r}:\n{text}")
