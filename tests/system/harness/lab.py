"""What a scenario has: machines, and the packages to install on them."""

import pathlib
import time

from . import network
from .machine import Machine
from .outcome import Failure, Skip

# Where packages lie in a machine: apt's own user must be able to read them.
PACKAGES = "/var/tmp"

INSTALL_SECONDS = 120

NAMES = ["dsmctl", "dsmd"]


def packages(folder):
    """One package of each name in a folder."""
    found = []
    for name in NAMES:
        files = sorted(pathlib.Path(folder).glob(f"{name}_*.deb"))
        if len(files) != 1:
            raise Skip(f"{folder} has {len(files)} files {name}_*.deb: it must be one. They are built by make deb")
        found += files
    return found


class Lab:
    """One scenario's machines, alone in namespaces of their own."""

    def __init__(self, run, name, release, image, debs, previous):
        self.run_id, self.name, self.release, self.image = run, name, release, image
        self.debs, self.previous = debs, previous
        # /run is this scenario's own: see inside.py.
        self.place = pathlib.Path("/run/machines", f"{release}-{name}")
        self.machines = []
        self.began = time.monotonic()
        network.make()

    def step(self, text):
        """Says what comes next, for whoever reads the log of a failure."""
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
        """Installs the packages of a folder, those to be tested without one, as an administrator does."""
        files = [machine.copy(file, PACKAGES) for file in packages(folder or self.debs)]
        self.step(f"{machine.name} installs {' '.join(pathlib.Path(file).name for file in files)}")
        machine.run(f"apt-get install --yes --quiet {options} {' '.join(files)}", seconds=INSTALL_SECONDS)

    def packages_before(self):
        """The folder with the packages of an older version."""
        if not self.previous:
            raise Skip("it needs the packages of an older version: --previous DIR")
        packages(self.previous)
        return self.previous

    def report(self):
        for machine in self.machines:
            try:
                print(machine.report(), flush=True)
            except (Failure, OSError) as error:
                print(f"--- {machine.name}: {error}", flush=True)
