"""The machines of a scenario, and the packages to install on them."""

import pathlib
import time

from . import network
from .machine import Machine
from .outcome import Failure, Skip

# The folder of the packages in a machine. The user _apt must be able to read it.
PACKAGES = "/var/tmp"

INSTALL_SECONDS = 120

NAMES = ["dsmctl", "dsmd"]


def packages(folder):
    """The path of the one package of each name in a folder."""
    found = []
    for name in NAMES:
        files = sorted(pathlib.Path(folder).glob(f"{name}_*.deb"))
        if len(files) != 1:
            raise Skip(f"{folder} has {len(files)} files {name}_*.deb, expected one: run make deb")
        found += files
    return found


class Lab:
    """The machines of one scenario, in their own namespaces."""

    def __init__(self, run, name, release, image, debs, previous):
        self.run_id, self.name, self.release, self.image = run, name, release, image
        self.debs, self.previous = debs, previous
        # /run belongs to this scenario: see inside.py.
        self.place = pathlib.Path("/run/machines", f"{release}-{name}")
        self.machines = []
        self.began = time.monotonic()
        network.make()

    def step(self, text):
        """Prints the next step: the log of a failure shows where it happened."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def machine(self, own_users=False):
        """Boots a new machine."""
        number = len(self.machines) + 1
        machine = Machine(self.run_id, self.place / str(number), self.image, number, own_users)
        self.machines.append(machine)
        self.step(f"{machine.name} boots")
        machine.boot()
        return machine

    def install(self, machine, folder=None, options=""):
        """Installs the packages in `folder`, or those under test, by apt-get."""
        files = [machine.copy(file, PACKAGES) for file in packages(folder or self.debs)]
        self.step(f"{machine.name} installs {' '.join(pathlib.Path(file).name for file in files)}")
        machine.run(f"apt-get install --yes --quiet {options} {' '.join(files)}", seconds=INSTALL_SECONDS)

    def packages_before(self):
        """The folder of the packages of an older version."""
        if not self.previous:
            raise Skip("this scenario needs the packages of an older version: --previous DIR")
        packages(self.previous)
        return self.previous

    def report(self):
        for machine in self.machines:
            try:
                print(machine.report(), flush=True)
            except (Failure, OSError) as error:
                print(f"--- {machine.name}: {error}", flush=True)
