"""Without user namespaces in the kernel no service starts; with the drop-in of docs/systemd.md each of them does.

The machine has its own user namespace, so that the limit applies to the machine only.
"""

import pathlib
import re
import textwrap

from harness import sandbox, service
from harness.outcome import expect

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs/systemd.md"

# dsmd and dsmd@0 are the same server: only one of them can run at a time.
UNITS = ["dsmd", "dsm-snapshot-agent", "dsm-snapshot", "dsmd@0"]

# EXIT_USER of systemd.exec(5).
NO_USER = "217"


def scenario(lab):
    units, text = drop_in()
    machine = lab.machine(own_users=True)
    # nspawn mounts /proc/sys read-only.
    machine.run("mount --options remount,rw /proc/sys && sysctl user.max_user_namespaces=0")
    machine.run("unshare --user /bin/true", status=1)
    lab.install(machine)
    machine.run("systemctl stop dsm-snapshot.timer dsm-snapshot-agent.socket dsmd")
    lab.step("without the drop-in: 217/USER")
    for unit in UNITS:
        machine.run(f"systemctl start {unit}", status=1)
        found = service.show(machine, unit, "ExecMainStatus")["ExecMainStatus"]
        expect(found == NO_USER, f"{unit} ended with {found}, and docs/systemd.md says {NO_USER}")
        machine.run(f"systemctl stop {unit} && systemctl reset-failed {unit}", status=None)
    lab.step(f"with the drop-in of docs/systemd.md for {', '.join(units)}")
    for unit in units:
        # As `systemctl edit UNIT` does, but with a single reload after all units.
        machine.write(f"/etc/systemd/system/{unit}.d/override.conf", text)
    machine.run("systemctl daemon-reload")
    machine.run("systemctl start dsmd dsm-snapshot-agent.socket && dsmctl write 0 kept && systemctl start dsm-snapshot")
    machine.run("dsmctl snapshot list | grep --quiet dsnap")
    for unit in ("dsmd", "dsm-snapshot-agent"):
        the_sandbox_stays(machine, unit)
    machine.run("systemctl stop dsmd && systemctl start dsmd@0")
    found = machine.read("dsmctl read 0 4 --format raw")
    expect(found == "kept", f"the memory of dsmd@0 has {found!r}, expected what dsmd had")
    the_sandbox_stays(machine, "dsmd@0")


def drop_in():
    """The units that the page names, and the text of the drop-in."""
    section = PAGE.read_text().split("### Hosts without user namespaces\n")[1].split("\n#")[0]
    before, _, shown = section.partition("    # systemctl edit dsmd.service\n")
    expect(shown, f"{PAGE} does not say what to edit: {section}")
    return re.findall(r"[\w@-]+\.service", before), textwrap.dedent(shown)


def the_sandbox_stays(machine, unit):
    status = machine.read(f"cat /proc/{service.main_pid(machine, unit)}/status")
    sandbox.expect_no_privileges(status, unit)
