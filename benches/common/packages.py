"""The programs of other projects, from Debian's packages."""

import os
import pathlib
import shutil
import subprocess

from stage import Failure

# Prevents the installation from starting a service: invoke-rc.d(8) runs this program, and 101
# forbids the start.
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")
FORBID = "#!/bin/sh\nexit 101\n"


def find(package, *names):
    """The path of the first of these programs that exists. If none does, root installs the package."""
    program = next(filter(None, map(shutil.which, names)), None)
    if program:
        return program
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"{names[0]} is not installed. Install it: sudo apt-get install {package}")
    _install(package)
    program = next(filter(None, map(shutil.which, names)), None)
    if not program:
        raise Failure(f"the package {package} has none of {', '.join(names)}")
    return program


def _install(package):
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text(FORBID)
        POLICY.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", package]
        for command in (["apt-get", "update", "-q"], install):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failure(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    finally:
        if ours:
            POLICY.unlink()


def said(command, **options):
    """The output of a program."""
    return subprocess.run(command, capture_output=True, text=True, **options).stdout.strip()
