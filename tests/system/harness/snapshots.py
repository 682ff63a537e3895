"""The snapshots of a machine, and why one was not taken."""

import json

from . import service
from .outcome import expect

DIRECTORY = "/var/lib/dsm-snapshot"

# packaging/systemd/dsm.catalog
FAILED = "c521baed1c7b41928b2c5c7790fd4b08"
EXPLANATION = ["No snapshot of the shared memory was taken", "A server is missing: see that its machine is up"]


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


def expect_reason(machine, since, *words):
    """The journal says why there is no snapshot, in one message with all the words, and explains it."""
    found = service.messages(machine, f"--unit=dsm-snapshot MESSAGE_ID={FAILED} {since}")
    for word in words:
        expect(word in found, f"the journal does not say {word!r} of a snapshot that failed, but: {found}")
    text = service.journal(machine, f"--catalog --unit=dsm-snapshot {since}")
    for line in EXPLANATION:
        expect(line in text, f"journalctl -x does not explain with {line!r}:\n{text}")
