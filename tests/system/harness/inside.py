"""Runs one scenario, as the first process of namespaces of its own.

The runner starts it; its only argument is JSON with the arguments of Lab. Exit code 0 says that the scenario passed, 1
that it failed, 77 that it was skipped; then the last line says why.
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
    # Folders and locks of nspawn, and the layers of the machines: gone with the namespace.
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
