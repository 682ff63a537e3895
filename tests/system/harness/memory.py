"""The incarnation and the contents of a machine's memory, read by dsmctl."""

import json

from .outcome import expect

# Above the small addresses that the scenarios write to.
ADDRESS, LENGTH = "1MiB", "1MiB"

DATA, COPY = "/var/tmp/data", "/var/tmp/copy"


def servers(machine, config=""):
    """The rows of dsmctl status. `config` is the path of an mcomp.cfg; empty: /etc/mcomp.cfg."""
    return json.loads(machine.read(f"dsmctl {with_config(config)} --json status"))


def incarnation(machine, config="", server=0):
    """The incarnation of a server's memory, which changes when the memory is lost."""
    return servers(machine, config)[server]["incarnation"]


def checksum(machine, address, length):
    """A hash of the current bytes."""
    return machine.read(f"set -o pipefail; dsmctl read {address} {length} | sha256sum")


def expect_zeros(machine, address, length):
    machine.run(f"set -o pipefail; dsmctl read {address} {length} | cmp - <(head -c {length.removesuffix('iB')} /dev/zero)")


def with_config(config):
    return f"--config {config}" if config else ""


class Kept:
    """Random bytes that are written now, to check later that the memory is still the same."""

    def __init__(self, machine):
        self.machine, self.incarnation = machine, incarnation(machine)
        machine.run(f"head -c {LENGTH[:-2]} /dev/urandom > {DATA} && dsmctl write {ADDRESS} --file {DATA}")

    def expect(self, when, config=""):
        read = f"dsmctl {with_config(config)} read {ADDRESS} {LENGTH} -o {COPY}"
        self.machine.run(f"{read} && cmp {DATA} {COPY}")
        found = incarnation(self.machine, config)
        expect(found == self.incarnation, f"{when} the incarnation is {found}, expected {self.incarnation}")
