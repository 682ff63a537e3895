"""Several machines that share one memory, set up as the comments of /etc/mcomp.cfg say."""

from concurrent.futures import ThreadPoolExecutor

from . import service

MIB = 1 << 20

# What each server shares.
SHARE = 64 * MIB


def config(machines, more="", k=SHARE):
    """One mcomp.cfg for all of them."""
    tables = "".join(f'[[server]]\naddress = "{machine.address}:7411"\n' for machine in machines)
    return f'k = "{k}"\nn = {len(machines)}\n{tables}[security]\ntrusted_network = true\n{more}'


def listen(machine):
    """Lets the machine's agent listen where the others reach it."""
    service.drop_in(machine, "dsm-snapshot-agent.socket", f"[Socket]\nListenStream=\nListenStream={machine.address}:7412\n")
    machine.run("systemctl restart dsm-snapshot-agent.socket")


def configure(machine, text):
    """Gives a machine that was just installed its mcomp.cfg. Its memory is empty, and of the packaged k: it is deleted."""
    machine.write("/etc/mcomp.cfg", text)
    listen(machine)
    machine.run("dsmctl config check && systemctl stop dsmd && rm -f /dev/shm/dsm.* /dev/shm/sem.dsm.* && systemctl start dsmd")


def start(lab, count=3, more=""):
    """Boots machines, installs the packages, and makes one memory of them. The timer of snapshots is off."""
    machines = [lab.machine() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lab.install, machines))
        list(pool.map(lambda machine: configure(machine, config(machines, more)), machines))
    for machine in machines:
        # Also when it boots again.
        machine.run("systemctl disable --now dsm-snapshot.timer")
    machines[0].run("dsmctl ping")
    return machines
