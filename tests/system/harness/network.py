"""The bridge between the machines of one scenario, in the scenario's network namespace."""

import subprocess

BRIDGE = "dsm"

# The addresses are visible only in that namespace. The examples in mcomp.cfg use the same.
NETWORK = "10.0.0."
PREFIX_LENGTH = 24


def command(*arguments):
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL)


def address(number):
    return f"{NETWORK}{number}"


def make():
    command("ip", "link", "set", "lo", "up")
    command("ip", "link", "add", BRIDGE, "type", "bridge")
    command("ip", "link", "set", BRIDGE, "up")


def unit(number):
    """The configuration of systemd-networkd for the machine with this number. It is online when it has its address."""
    return (
        "[Match]\nName=host0\n"
        f"[Network]\nAddress={address(number)}/{PREFIX_LENGTH}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def cut(one, other):
    """Drops all packets between two machines, as a partition does: neither gets an error."""
    rules = [f"ip saddr {a.address} ip daddr {b.address} drop" for a, b in ((one, other), (other, one))]
    lines = ["table bridge cut {", "chain forward {", "type filter hook forward priority 0;", *rules, "}", "}"]
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)


def heal():
    """Lets all packets through again."""
    command("nft", "delete", "table", "bridge", "cut")
