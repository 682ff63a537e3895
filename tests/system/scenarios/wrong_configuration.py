"""With a wrong mcomp.cfg dsmd does not start, says what dsmctl config check says, and is not started again and again.

Put right, it has its memory. A wrong file does nothing to a dsmd that runs.
"""

from harness import memory, service
from harness.outcome import expect, wait_until

CONFIG = "/etc/mcomp.cfg"

# The file as installed, for dsmctl while the other one is wrong.
GOOD = "/var/tmp/mcomp.cfg"

# EX_CONFIG of sysexits.h.
WRONG = 78

# packaging/systemd/dsm.catalog
RELOAD_REFUSED = "a42ec8c87f8b4f1f9cab6969ea615684"

# Nobody has so much.
TOO_LARGE = "1024TiB"


def scenario(lab):
    machine = lab.machine()
    lab.install(machine)
    good = machine.read(f"cat {CONFIG}") + "\n"
    machine.write(GOOD, good)
    kept = memory.Kept(machine)
    for what, text in mistakes(good).items():
        lab.step(f"a file with {what}: neither dsmd nor dsm-snapshot starts")
        machine.write(CONFIG, text)
        for unit in ("dsmd", "dsm-snapshot"):
            it_does_not_start(machine, unit, complaints(machine))
    lab.step("more memory than /dev/shm has: dsmd does not start")
    machine.write(CONFIG, with_k(good, TOO_LARGE))
    it_does_not_start(machine, "dsmd", complaints(machine))
    lab.step("another k than the memory has: dsmd does not start, and leaves the memory alone")
    machine.write(CONFIG, with_k(good, "16MiB"))
    it_does_not_start(machine, "dsmd", ["dsm.0 does not fit: k is 33554432, expected 16777216"])
    lab.step("put right, dsmd starts and has its memory")
    machine.write(CONFIG, good)
    machine.run("systemctl restart dsmd")
    kept.expect("after mcomp.cfg was put right")
    the_reloads(lab, machine, good, kept)


def edit(text, old, new):
    expect(text.count(old) == 1, f"{CONFIG} has {text.count(old)} times {old!r}, expected once")
    return text.replace(old, new)


def with_k(good, k):
    return edit(good, 'k = "32MiB"', f'k = "{k}"')


def with_log(good, operations):
    return edit(good, '#operations = "off"', f'operations = "{operations}"')


def mistakes(good):
    """Files with mistakes, by what they are."""
    misspelt = edit(with_k(good, "65MB"), "#connections = 1024", "conections = 10")
    return {"two mistakes": misspelt, "a text that is no TOML": good + "[[server\n"}


def complaints(machine):
    """The lines of what `dsmctl config check` says against the file, without the name of the program."""
    checked = machine.run("dsmctl config check", status=WRONG)
    lines = checked.stderr.removeprefix("dsmctl: ").splitlines()
    expect(lines and all(CONFIG in line for line in lines), f"not each line says where the mistake is: {checked}")
    return lines


def wait_for_lines(machine, lines, arguments):
    def complete():
        said = service.messages(machine, arguments)
        return all(line in said for line in lines)

    wait_until(f"the journal ({arguments}) to have each of {lines}", complete)


def it_does_not_start(machine, unit, lines):
    """The unit says the lines, ends with the exit code, and is not started again."""
    since = service.since_now(machine)
    # So many starts in so short a time are only a test's.
    machine.run(f"systemctl reset-failed {unit}")
    machine.run(f"systemctl restart {unit}", status=1)
    wait_for_lines(machine, lines, f"--unit={unit} {since}")
    shown = service.show(machine, unit, "ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
    # A unit that is to be started again is not "failed" but "activating".
    wanted = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}
    wanted |= {"ExecMainStatus": str(WRONG), "NRestarts": "0"}
    expect(shown == wanted, f"{unit} is {shown}, expected {wanted}")
    shown = machine.read(f"systemctl status --no-pager --full {unit}", status=3)
    expect(lines[0] in shown, f"systemctl status does not say {lines[0]!r}:\n{shown}")


def the_reloads(lab, machine, good, kept):
    logging = with_log(good, "all")
    for what, text in mistakes(logging).items():
        lab.step(f"systemctl reload of a file with {what}: it stays as it was")
        machine.write(CONFIG, text)
        the_reload_is_refused(machine, complaints(machine), kept)
    lab.step("systemctl reload of a file with another k: it stays as it was")
    machine.write(CONFIG, with_k(logging, "16MiB"))
    the_reload_is_refused(machine, ["k: ours 33554432, theirs 16777216"], kept)
    lab.step("a right file is taken over, and the wrong ones were not")
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
    # Had the file been taken over, the operation log would have this.
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
