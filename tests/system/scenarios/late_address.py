"""A machine gets its address only after its boot: dsmd waits for it, says so, and serves once the address exists."""

from harness import service
from harness.outcome import expect, wait_until

ADDRESS = "10.0.0.77"

# The packaged k: dsmd has already created a memory with it.
CONFIG = f'k = "32MiB"\nn = 1\n[[server]]\naddress = "{ADDRESS}:7411"\n[security]\ntrusted_network = true\n'

# With --index, dsmd does not look for an address of this machine, but must still listen on it.
INDEX = "[Service]\nExecStart=\nExecStart=/usr/sbin/dsmd --index 0\n"


def scenario(lab):
    machine = lab.machine()
    lab.install(machine)
    machine.write("/etc/mcomp.cfg", CONFIG)
    it_waits(lab, machine, "no server in /etc/mcomp.cfg has an address of this machine")
    machine.run("systemctl stop dsmd")
    service.expect_state(machine, "dsmd", "inactive")
    machine.run(f"ip address del {ADDRESS}/24 dev host0")
    service.drop_in(machine, "dsmd.service", INDEX)
    it_waits(lab, machine, f"listen on {ADDRESS}:7411")


def it_waits(lab, machine, complaint):
    lab.step(f"without the address dsmd waits: {complaint}")
    machine.run("systemctl restart --no-block dsmd")
    wait_until("systemctl status to say what dsmd waits for", lambda: complaint in status(machine))
    service.expect_state(machine, "dsmd", "activating")
    machine.run(f"ip address add {ADDRESS}/24 dev host0")
    wait_until("dsmd to serve", lambda: service.state(machine, "dsmd") == "active")
    restarts = service.show(machine, "dsmd", "NRestarts")
    expect(restarts == {"NRestarts": "0"}, f"dsmd did not wait, systemd restarted it: {restarts}")
    machine.run("dsmctl write 0 hello && dsmctl read 0 5")


def status(machine):
    return service.show(machine, "dsmd", "StatusText")["StatusText"]
