"""The base image of each Debian release: made once by mmdebstrap, and kept between runs."""

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

# A machine has no way to a mirror: whatever the packages depend on, and the scenarios use, is in the image.
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

# Removed: what mmdebstrap takes over from the host, and what would make apt look for a mirror.
REMOVED = ["etc/hostname", "etc/resolv.conf", "etc/apt/sources.list"]

ENABLED = ["systemd-networkd.service", "systemd-networkd-wait-online.service"]

# An image that no run has used for so long goes when another one is made.
UNUSED_SECONDS = 14 * 24 * 3600

# Whatever ends this program ends mmdebstrap too, with all that it has mounted in the image.
CONTAINED = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL"]
CONTAINED += ["--mount-proc", "--"]

# To be raised when images are made in another way than before.
VERSION = 1


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base, "dsm-system-tests")


def key():
    recipe = json.dumps([VERSION, PACKAGES, REMOVED, ENABLED])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


@contextlib.contextmanager
def locked(folder):
    """Two runs at once make an image only once."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_unused(folder):
    """Not each that has another recipe: another run may have its machines on it."""
    for old in folder.iterdir():
        if old.is_dir() and time.time() - old.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(old)


def build(release, folder):
    command = [*CONTAINED, "mmdebstrap", "--quiet", "--variant=minbase", "--include=" + ",".join(PACKAGES), release, str(folder)]
    with tempfile.TemporaryDirectory() as temporary:
        # apt reads there as a user of its own.
        os.chmod(temporary, 0o755)
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": temporary}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f"no image of {release} could be made (is a Debian mirror reachable?): {done.stderr.strip()[-800:]}")
    for path in REMOVED:
        (folder / path).unlink(missing_ok=True)
    subprocess.run(["systemctl", f"--root={folder}", "--quiet", "enable", *ENABLED], check=True, capture_output=True)


def image(release):
    """The folder of the release's image, which is made first if need be."""
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
