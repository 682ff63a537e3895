"""The base image of each Debian release: mmdebstrap makes it once, and a cache keeps it between runs."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from .outcome import Skip

RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13"}

# A machine cannot reach a mirror: the image has all dependencies of the packages and the tools of
# the scenarios.
PACKAGES = [
    "bash-completion",
    "dbus",
    "iproute2",
    "iputils-ping",
    "logrotate",
    "man-db",
    "procps",
    "systemd",
    "systemd-sysv",
]

# Files to remove: mmdebstrap copies the first two from the host, and the third makes apt use a
# mirror.
REMOVED = ["etc/hostname", "etc/resolv.conf", "etc/apt/sources.list"]

ENABLED = ["systemd-networkd.service", "systemd-networkd-wait-online.service"]

# The age after which an unused image is removed, when another one is made.
UNUSED_SECONDS = 14 * 24 * 3600

# When this program ends, the kernel also ends mmdebstrap and its mounts in the image.
CONTAINED = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL"]
CONTAINED += ["--mount-proc", "--"]

# Increase this when the way to make images changes.
VERSION = 1


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base, "dsm-system-tests")


def key():
    recipe = json.dumps([VERSION, PACKAGES, REMOVED, ENABLED])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


@contextlib.contextmanager
def locked(folder):
    """A lock, so that parallel runs make an image only once."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_unused(folder):
    """Removes images by age: another run may use an image with another recipe."""
    for old in folder.iterdir():
        if old.is_dir() and time.time() - old.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(old)


def build(release, folder):
    command = [*CONTAINED, "mmdebstrap", "--quiet", "--variant=minbase", "--include=" + ",".join(PACKAGES), release, str(folder)]
    with tempfile.TemporaryDirectory() as temporary:
        # apt reads there as the user _apt.
        os.chmod(temporary, 0o755)
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": temporary}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f"no image of {release} could be made (is a Debian mirror reachable?): {done.stderr.strip()[-800:]}")
    for path in REMOVED:
        (folder / path).unlink(missing_ok=True)
    subprocess.run(["systemctl", f"--root={folder}", "--quiet", "enable", *ENABLED], check=True, capture_output=True)


def image(release):
    """The folder of the release's image. Makes the image if the cache does not have it."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"{release}-{key()}"
    with locked(folder):
        if wanted.is_dir():
            os.utime(wanted)
            return wanted
        remove_unused(folder)
        print(f"Making the image of {release} ({RELEASES[release]}), once: {wanted}", flush=True)
        partial = folder / f"partial-{release}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            build(release, partial)
            partial.rename(wanted)
            os.utime(wanted)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return wanted
