"""Several machines that share one memory, set up as the comments of /etc/mcomp.cfg say."""

from concurrent.futures import ThreadPoolExecutor

from . import service

MIB = 1 << 20

# Bytes that each server shares.
SHARE = 64 * MIB


def config(machines, more="", k=SHARE):
    """The text of one mcomp.cfg for all machines."""
    tables = "".join(f'[[server]]\naddress = "{machine.address}:7411"\n' for machine in machines)
    return f'k = "{k}"\nn = {len(machines)}\n{tables}[security]\ntrusted_network = true\n{more}'


def listen(machine):
    """Makes the machine's agent listen on an address that the other machines can reach."""
    service.drop_in(machine, "dsm-snapshot-agent.socket", f"[Socket]\nListenStream=\nListenStream={machine.address}:7412\n")
    machine.run("systemctl restart dsm-snapshot-agent.socket")


def configure(machine, text):
    """Writes mcomp.cfg on a newly installed machine, and deletes its memory, which is empty and has the packaged k."""
    machine.write("/etc/mcomp.cfg", text)
    listen(machine)
    machine.run("dsmctl config check && systemctl stop dsmd && rm -f /dev/shm/dsm.* /dev/shm/sem.dsm.* && systemctl start dsmd")


def start(lab, count=3, more=""):
    """Boots machines, installs the packages, and configures one memory. Disables the snapshot timer."""
    machines = [lab.machine() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lab.install, machines))
        list(pool.map(lambda machine: configure(machine, config(machines, more)), machines))
    for machine in machines:
        # `disable`: the timer must not start at the next boot.
        machine.run("systemctl disable --now dsm-snapshot.timer")
    machines[0].run("dsmctl ping")
    return machines
