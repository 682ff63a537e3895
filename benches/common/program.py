"""Common parts of the benchmark programs: paths, the description of the machine, and the clean-up after a signal."""

import os
import pathlib
import platform
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The load average above which the report says that the machine was busy.
BUSY = 0.5


def say(text):
    """Prints the progress to stderr."""
    print(f"... {text}", file=sys.stderr, flush=True)


def _stop(received, _):
    """Raises SystemExit, so that `with` blocks clean up. Ignores further signals during that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + received)


def end_in_order():
    """Makes a signal end this program by an exception, so that it cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)


def target():
    """Cargo's target folder."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()


def missing(programs, names, make):
    """The error message for the first of these programs that is not built; None if all are."""
    for name in names:
        if not (programs / name).exists():
            return f"{programs / name} does not exist: run `make {make}`, which builds it"
    return None


def machine():
    """A description of this machine."""
    return {
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def remarks(described):
    """Remarks on the machine that put the results in doubt."""
    load = described["load_before"]
    return [f"the machine was busy at the start: the load average was {load:.1f}"] if load > BUSY else []


def dsm_version(programs):
    """The version of dsmd."""
    text = subprocess.run([programs / "dsmd", "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[-1]
