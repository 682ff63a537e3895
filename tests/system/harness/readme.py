"""Runs the commands of README.md in a machine."""

import importlib.util
import pathlib
import re

from . import lab as labs
from .outcome import expect

# The folder of the sources in a machine. The user _apt must be able to read the packages in it.
CHECKOUT = "/var/tmp/dsm"

# An unprivileged user, and the PATH of such a user in Debian.
USER = "newcomer"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"

INSTALL_SECONDS = 120

TOUR_SECONDS = 240


def follower():
    """The module tests/readme_tour.py, which compares the output of README.md's commands with what the page shows."""
    path = pathlib.Path(__file__).resolve().parents[2] / "readme_tour.py"
    spec = importlib.util.spec_from_file_location("readme_tour", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(lab, machine):
    """Installs the packages by the commands of README.md, and runs the commands after them."""
    readme = follower()
    for file in labs.packages(lab.debs):
        machine.copy(file, f"{CHECKOUT}/target/deb")
    machine.run(f"useradd --create-home --shell /bin/bash {USER}")
    typed = readme.steps(readme.section(readme.README.read_text(), "Install on Debian"))
    expect(typed[0] == ("make deb", []), f"README.md begins the installation with {typed[0]}")
    # The packages are already built.
    for command, shown in typed[1:]:
        lab.step(f"$ {command}")
        as_root = command.removeprefix("sudo ")
        user = USER if as_root == command else None
        printed = machine.read(f"export PATH={PATH}:/usr/sbin:/sbin; cd {CHECKOUT} && {as_root}", user=user, seconds=INSTALL_SECONDS)
        expect(not shown or printed.splitlines() == shown, f"README.md shows {shown}, and this printed:\n{printed}")


def take_the_tour(lab, machine):
    """Runs the unchanged tour as an unprivileged user, while the installed dsmd runs."""
    lab.step("an unprivileged user takes the tour of README.md, and sees what it shows")
    readme = follower()
    expected = readme.tour()
    text = readme.section(readme.README.read_text(), "A tour of five minutes")
    path = re.search(r"`(export PATH=[^`]+)` takes the place of the\s+first line", text)
    expect(path, "README.md does not say what takes the place of the tour's first line where the packages are installed")
    expected[0] = (path[1], [])
    script = readme.script([command for command, _ in expected])
    said = machine.read(f"export PATH={PATH}; {script}", user=USER, seconds=TOUR_SECONDS)
    found = list(readme.differences(expected, said))
    expect(not found, "\n\n".join(found))
