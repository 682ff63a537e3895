"""What every benchmark is as a program: where things are, what machine it is, and that a signal ends it in order."""

import os
import pathlib
import platform
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A load average from which on the machine has other things to do.
BUSY = 0.5


def say(text):
    """Progress, for whoever waits."""
    print(f"... {text}", file=sys.stderr, flush=True)


def _stop(received, _):
    """A signal ends this as an error does: everything is put away first, and not disturbed by another one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + received)


def end_in_order():
    """From here on a signal is like an error."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)


def target():
    """The folder where cargo builds."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()


def missing(programs, names, make):
    """What to say when one of these programs was not built, if so."""
    for name in names:
        if not (programs / name).exists():
            return f"there is no {programs / name}: run `make {make}`, which builds it"
    return None


def machine():
    """What it is measured on."""
    return {
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def remarks(described):
    """What to know of the machine before trusting a number."""
    load = described["load_before"]
    return [f"the machine was busy before: the load average was {load:.1f}"] if load > BUSY else []


def dsm_version(programs):
    """That of dsmd."""
    text = subprocess.run([programs / "dsmd", "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[-1]
