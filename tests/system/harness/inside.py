"""Runs one scenario, as the first process in its namespaces.

The runner starts this with one argument: JSON with the arguments of Lab. Exit code: 0 the scenario
passed, 1 it failed, 77 it was skipped, and the last line says why.
"""

import importlib
import json
import sys
import traceback

from . import network
from .lab import Lab
from .outcome import FAILED, PASSED, SKIPPED, Failure, Skip


def main():
    arguments = json.loads(sys.argv[1])
    # The folders and locks of nspawn and the layers of the machines are on this mount, which ends
    # with the namespace.
    network.command("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    lab = Lab(**arguments)
    try:
        importlib.import_module(f"scenarios.{arguments['name']}").scenario(lab)
    except Skip as reason:
        print(reason)
        return SKIPPED
    except Exception as error:
        if isinstance(error, Failure):
            traceback.print_tb(error.__traceback__)
            print(f"FAILED: {error}", flush=True)
        else:
            traceback.print_exc(file=sys.stdout)
        lab.report()
        return FAILED
    lab.step("passed")
    return PASSED


if __name__ == "__main__":
    sys.exit(main())
