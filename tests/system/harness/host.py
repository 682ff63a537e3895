"""The requirements of the host: root, namespaces, and a few tools, which this installs by apt-get."""

import os
import shutil
import subprocess

from .outcome import Skip

# Commands, and the Debian package of each.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
}

# New namespaces for each scenario. When `unshare` ends, the kernel kills every process inside, and
# then removes the mounts, the network and the folders of the machines.
ISOLATE = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"]


def missing():
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})


def install(packages):
    if shutil.which("apt-get") is None:
        raise Skip(f"missing: {' '.join(packages)}, and there is no apt-get to install them with")
    print(f"Installing {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Skip(f"missing: {' '.join(packages)}; apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def prepare():
    """Checks that scenarios can run on this host; raises Skip if not."""
    if os.geteuid() != 0:
        raise Skip("booting machines needs root: sudo tests/system/run")
    packages = missing()
    if packages:
        install(packages)
    probe = subprocess.run([*ISOLATE, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, text=True)
    if probe.returncode != 0:
        raise Skip(f"root may not create namespaces and mounts here, as in a container: {probe.stderr.strip()}")
