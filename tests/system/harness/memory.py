"""What a machine's memory is, and what is in it, asked by dsmctl."""

import json

from .outcome import expect

# Beyond what the scenarios write at small addresses.
ADDRESS, LENGTH = "1MiB", "1MiB"

DATA, COPY = "/var/tmp/data", "/var/tmp/copy"


def servers(machine, config=""):
    """What dsmctl status says of each server. `config` is another file than /etc/mcomp.cfg."""
    return json.loads(machine.read(f"dsmctl {with_config(config)} --json status"))


def incarnation(machine, config="", server=0):
    """The number of what is in the memory: another one after it was lost."""
    return servers(machine, config)[server]["incarnation"]


def checksum(machine, address, length):
    """A hash of what is there now."""
    return machine.read(f"set -o pipefail; dsmctl read {address} {length} | sha256sum")


def expect_zeros(machine, address, length):
    machine.run(f"set -o pipefail; dsmctl read {address} {length} | cmp - <(head -c {length.removesuffix('iB')} /dev/zero)")


def with_config(config):
    return f"--config {config}" if config else ""


class Kept:
    """What the memory holds now, so that it can be seen later that it is still the same memory."""

    def __init__(self, machine):
        self.machine, self.incarnation = machine, incarnation(machine)
        machine.run(f"head -c {LENGTH[:-2]} /dev/urandom > {DATA} && dsmctl write {ADDRESS} --file {DATA}")

    def expect(self, when, config=""):
        read = f"dsmctl {with_config(config)} read {ADDRESS} {LENGTH} -o {COPY}"
        self.machine.run(f"{read} && cmp {DATA} {COPY}")
        found = incarnation(self.machine, config)
        expect(found == self.incarnation, f"{when} the memory is another one: {found}, expected {self.incarnation}")
