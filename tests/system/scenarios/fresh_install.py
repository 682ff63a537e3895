"""After the installation by README.md everything works at once, and dsmd restarts with its memory, however it dies.

The manual pages, the fields of the journal and its explanations work, and so does the tour of README.md.
"""

import os
import re

from harness import memory, readme, service
from harness.outcome import expect, wait_until

PAGES = ["dsm.7", "dsmctl.1", "dsmctl-snapshot.1", "dsmd.8", "dsm-snapshot.8", "mcomp.cfg.5"]

ACTIVE = ["dsmd.service", "dsm-snapshot-agent.socket", "dsm-snapshot.timer"]

# The longest time until an idle agent ends.
AGENT_SECONDS = 60

# WatchdogSec= of the unit, and the time to end and to start.
WATCHDOG_SECONDS = 45


def scenario(lab):
    machine = lab.machine()
    readme.install(lab, machine)
    readme.take_the_tour(lab, machine)
    services_run(lab, machine)
    the_memory_is_used(lab, machine)
    pages_open(lab, machine)
    the_journal_explains(lab, machine)
    the_memory_outlives_every_death(lab, machine)
    snapshots_are_taken(lab, machine)


def services_run(lab, machine):
    lab.step("the units are enabled and active")
    for unit in ACTIVE:
        service.expect_state(machine, unit, "active")
        machine.run(f"systemctl is-enabled {unit}")
    # The commands of README.md have taken a snapshot. An agent ends after 30 seconds without work.
    service.wait_for_state(machine, "dsm-snapshot-agent.service", "inactive", AGENT_SECONDS)
    shown = service.show(machine, "dsmd", "Type", "StatusText", "NRestarts")
    expect(shown["Type"] == "notify" and shown["NRestarts"] == "0" and shown["StatusText"], f"dsmd is {shown}")
    expect("ready: " in service.messages(machine, "--unit=dsmd"), "dsmd did not log that it is ready")
    failed = machine.read("systemctl --failed --plain --no-legend")
    expect(not failed, f"units have failed: {failed}")


def the_memory_is_used(lab, machine):
    lab.step("root and a member of group dsm read and write")
    machine.run("useradd --create-home --groups dsm alice")
    for user, text in ((None, "hello"), ("alice", "world")):
        found = machine.read(f"dsmctl write 0 {text} && dsmctl read 0 5", user=user)
        expect(found == text, f"{user or 'root'} wrote {text} and read {found}")
    lab.step("root and a member of group dsm use the shared memory, which belongs to user dsm; other users use TCP")
    machine.run("useradd --create-home bob")
    for user, path in ((None, "local"), ("alice", "local"), ("bob", "tcp")):
        found = machine.read("dsmctl ping", user=user)
        expect(found.endswith(path), f"{user or 'root'} does not use {path}: {found}")


def pages_open(lab, machine):
    lab.step("every manual page opens, and so does each page that it names")
    names = {page.rpartition(".")[0] for page in PAGES}
    for page in PAGES:
        name, _, section = page.rpartition(".")
        result = machine.run(f"MANWIDTH=200 man {section} {name} | cat")
        expect(not result.stderr and "\nNAME\n" in result.stdout, f"man {section} {name}:\n{result}")
        for other, its_section in re.findall(r"\b((?:dsm|mcomp)[-.a-z]*)\((\d)\)", result.stdout):
            expect(f"{other}.{its_section}" in PAGES, f"{page} names {other}({its_section}), of {sorted(names)}")


def the_journal_explains(lab, machine):
    lab.step("the journal has fields and explanations")
    ready = [entry for entry in service.entries(machine, "--unit=dsmd") if "ready: " in str(entry.get("MESSAGE"))]
    for field in ("DSM_SERVER", "DSM_INCARNATION", "MESSAGE_ID"):
        expect(field in ready[0], f"the entry {ready[0]} has no {field}")
    found = service.messages(machine, "--unit=dsmd DSM_SERVER=0")
    expect("ready: " in found, f"journalctl DSM_SERVER=0 shows only: {found}")
    text = machine.read("journalctl --no-pager --catalog --unit=dsmd")
    for line in ("Subject: The server 0 of the shared memory is ready", "To see the whole memory and all of its servers"):
        expect(line in text, f"journalctl -x does not explain with {line!r}:\n{text}")


def the_memory_outlives_every_death(lab, machine):
    kept = memory.Kept(machine)

    def dies(how, command, seconds, by_itself):
        lab.step(how)
        before, started = service.main_pid(machine), service.restarts(machine)
        machine.run(command)

        def is_back():
            # A manual restart resets systemd's counter of restarts.
            again = service.restarts(machine) > started if by_itself else True
            return again and service.main_pid(machine) not in (0, before) and service.state(machine, "dsmd") == "active"

        wait_until(f"dsmd to be back after {how}", is_back, seconds)
        kept.expect(f"after {how}")

    dies("systemctl restart", "systemctl restart dsmd", 30, by_itself=False)
    dies("SIGKILL", "systemctl kill --signal=KILL --kill-whom=main dsmd", 30, by_itself=True)
    dies("SIGSTOP", "systemctl kill --signal=STOP --kill-whom=main dsmd", WATCHDOG_SECONDS, by_itself=True)
    text = machine.read("journalctl --no-pager --boot _PID=1 --unit=dsmd")
    expect("watchdog" in text.lower(), f"systemd does not say that its watchdog ended dsmd:\n{text}")


def snapshots_are_taken(lab, machine):
    lab.step("systemctl start dsm-snapshot writes a snapshot that members of group dsm may check")
    before = machine.read("ls /var/lib/dsm-snapshot").split()
    machine.run("systemctl start dsm-snapshot")
    files = [name for name in machine.read("ls /var/lib/dsm-snapshot").split() if name not in before]
    expect(len(files) == 1 and os.path.splitext(files[0])[1] == ".dsnap", f"there are the new snapshots {files}")
    machine.run(f"dsmctl snapshot verify {files[0]}", user="alice")
    written = service.entries(machine, "--unit=dsm-snapshot DSM_FILE=/var/lib/dsm-snapshot/" + files[0])
    expect(written and "DSM_SNAPSHOT" in written[0], f"the journal has no entry with DSM_SNAPSHOT= of it: {written}")
    found = service.entries(machine, "DSM_SNAPSHOT=" + written[0]["DSM_SNAPSHOT"])
    expect(found, "journalctl DSM_SNAPSHOT=… shows nothing")
