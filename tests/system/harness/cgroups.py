"""A control group for each machine: the systemd of a machine manages all services in its group.

The kernel does not remove control groups when a namespace ends. This module removes them, and
those of killed runs.
"""

import os
import pathlib
import re
import time

PREFIX = "dsm-system-tests-"

# A group can be removed a moment after its last process has died.
SECONDS = 5


def hierarchies():
    """The groups of this process in the hierarchies of systemd: cgroup v2, and name=systemd of v1."""
    mounts = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        place, kind = line.split(" - ")
        fields, (kind, _, options) = place.split(), kind.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            mounts.setdefault(kind, (fields[3], fields[4]))
    found = []
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        kind = {"": "cgroup2", "name=systemd": "cgroup"}.get(controllers)
        if kind in mounts:
            root, point = mounts[kind]
            found.append(pathlib.Path(point, os.path.relpath(path, root)))
    return found


def make(run, name):
    """Creates the groups for one boot of a machine. `run` is the process id of the run. Returns their folders."""
    folders = [hierarchy / f"{PREFIX}{run}" / name for hierarchy in hierarchies()]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def remove_tree(folder):
    for path, _, _ in os.walk(folder, topdown=False):
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def remove(run):
    """Removes the groups of the run with this process id. Its processes must have ended."""
    for hierarchy in hierarchies():
        remove_tree(hierarchy / f"{PREFIX}{run}")


def remove_stale():
    """Removes the groups of killed runs."""
    for hierarchy in hierarchies():
        for folder in hierarchy.glob(PREFIX + "*"):
            number = re.fullmatch(PREFIX + r"(\d+)", folder.name)
            if number and not os.path.exists(f"/proc/{number[1]}"):
                remove_tree(folder)
