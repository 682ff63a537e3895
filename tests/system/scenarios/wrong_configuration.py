"""With a wrong mcomp.cfg dsmd does not start, says what dsmctl config check says, and is not restarted.

With the corrected file it has its memory. A running dsmd refuses a wrong file and does not change.
"""

from harness import memory, service
from harness.outcome import expect, wait_until

CONFIG = "/etc/mcomp.cfg"

# A copy of the installed file, for dsmctl while /etc/mcomp.cfg is wrong.
GOOD = "/var/tmp/mcomp.cfg"

# EX_CONFIG of sysexits.h.
WRONG = 78

# packaging/systemd/dsm.catalog
RELOAD_REFUSED = "a42ec8c87f8b4f1f9cab6969ea615684"

# More than any machine has.
TOO_LARGE = "1024TiB"


def scenario(lab):
    machine = lab.machine()
    lab.install(machine)
    good = machine.read(f"cat {CONFIG}") + "\n"
    machine.write(GOOD, good)
    kept = memory.Kept(machine)
    for what, text in wrong_files(good).items():
        lab.step(f"a file with {what}: neither dsmd nor dsm-snapshot starts")
        machine.write(CONFIG, text)
        for unit in ("dsmd", "dsm-snapshot"):
            it_does_not_start(machine, unit, complaints(machine))
    lab.step("k is larger than /dev/shm: dsmd does not start")
    machine.write(CONFIG, with_k(good, TOO_LARGE))
    it_does_not_start(machine, "dsmd", complaints(machine))
    lab.step("k is not that of the memory: dsmd does not start, and does not change the memory")
    machine.write(CONFIG, with_k(good, "16MiB"))
    it_does_not_start(machine, "dsmd", ["dsm.0 does not fit: k is 33554432, expected 16777216"])
    lab.step("with the corrected file dsmd starts and has its memory")
    machine.write(CONFIG, good)
    machine.run("systemctl restart dsmd")
    kept.expect("after mcomp.cfg was corrected")
    the_reloads(lab, machine, good, kept)


def edit(text, old, new):
    expect(text.count(old) == 1, f"{CONFIG} has {old!r} {text.count(old)} times, expected once")
    return text.replace(old, new)


def with_k(good, k):
    return edit(good, 'k = "32MiB"', f'k = "{k}"')


def with_log(good, operations):
    return edit(good, '#operations = "off"', f'operations = "{operations}"')


def wrong_files(good):
    """The texts of wrong files, by the kind of error."""
    misspelt = edit(with_k(good, "65MB"), "#connections = 1024", "conections = 10")
    return {"two errors": misspelt, "a syntax error of TOML": good + "[[server\n"}


def complaints(machine):
    """The lines of the errors of `dsmctl config check`, without the name of the program."""
    checked = machine.run("dsmctl config check", status=WRONG)
    lines = checked.stderr.removeprefix("dsmctl: ").splitlines()
    expect(lines and all(CONFIG in line for line in lines), f"not every line names the file: {checked}")
    return lines


def wait_for_lines(machine, lines, arguments):
    def complete():
        said = service.messages(machine, arguments)
        return all(line in said for line in lines)

    wait_until(f"the journal ({arguments}) to have each of {lines}", complete)


def it_does_not_start(machine, unit, lines):
    """Checks that the unit logs the lines, ends with the exit code for a wrong configuration, and is not restarted."""
    since = service.since_now(machine)
    # systemd would refuse so many starts in such a short time.
    machine.run(f"systemctl reset-failed {unit}")
    machine.run(f"systemctl restart {unit}", status=1)
    wait_for_lines(machine, lines, f"--unit={unit} {since}")
    shown = service.show(machine, unit, "ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
    # A unit that systemd will restart is "activating", not "failed".
    wanted = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}
    wanted |= {"ExecMainStatus": str(WRONG), "NRestarts": "0"}
    expect(shown == wanted, f"{unit} is {shown}, expected {wanted}")
    shown = machine.read(f"systemctl status --no-pager --full {unit}", status=3)
    expect(lines[0] in shown, f"systemctl status does not say {lines[0]!r}:\n{shown}")


def the_reloads(lab, machine, good, kept):
    logging = with_log(good, "all")
    for what, text in wrong_files(logging).items():
        lab.step(f"systemctl reload of a file with {what}: nothing changes")
        machine.write(CONFIG, text)
        the_reload_is_refused(machine, complaints(machine), kept)
    lab.step("systemctl reload of a file with another k: nothing changes")
    machine.write(CONFIG, with_k(logging, "16MiB"))
    the_reload_is_refused(machine, ["k: ours 33554432, theirs 16777216"], kept)
    lab.step("systemctl reload uses a valid file, and has not used the wrong ones")
    machine.write(CONFIG, with_log(good, "writes"))
    the_reload_is_done(machine, kept)


def the_reload_is_refused(machine, lines, kept):
    before = service.main_pid(machine)
    since = service.since_now(machine)
    machine.run("systemctl reload dsmd", status=1)
    wait_for_lines(machine, ["refused the new configuration", "reload refused", *lines], f"--unit=dsmd {since}")
    wait_for_lines(machine, ["reload refused", *lines], f"--unit=dsmd MESSAGE_ID={RELOAD_REFUSED} {since}")
    service.expect_state(machine, "dsmd", "active")
    expect(service.main_pid(machine) == before, "dsmd is another process after a reload that was refused")
    # With the refused file, the operation log would have this write.
    machine.run(f"dsmctl --config {GOOD} write 0 refused")
    kept.expect("after a reload that was refused", GOOD)


def the_reload_is_done(machine, kept):
    since = service.since_now(machine)
    machine.run("systemctl reload dsmd")
    wait_for_lines(machine, ["reloaded"], f"--unit=dsmd {since}")
    machine.run("dsmctl write 8KiB taken")
    log = "/var/log/dsm/operations-0.log"
    lines = wait_until(f"a line in {log}", lambda: machine.read(f"cat {log}", status=None).splitlines())
    expect(len(lines) == 1 and " write 0x0000000000002000 5 ok " in lines[0], f"the operation log has {lines}")
    kept.expect("after a reload")
