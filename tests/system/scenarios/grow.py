"""A memory with data grows to a second machine and then gets another k, by the steps of README.md: no byte is lost."""

import json

from harness import cluster, readme, service
from harness.outcome import expect

TEXT = "from before"


def scenario(lab):
    machines = [lab.machine() for _ in range(2)]
    for machine in machines:
        lab.install(machine)
        machine.run("systemctl disable --now dsm-snapshot.timer")
    k = json.loads(machines[0].read("dsmctl --json status"))[0]["k"]
    it_grows(lab, machines, k)
    it_gets_another_k(lab, machines, k)


def configure(machines, k):
    for machine in machines:
        machine.write("/etc/mcomp.cfg", cluster.config(machines, k=k))


def expect_kept(machine, address, when):
    found = machine.read(f"dsmctl read {address} {len(TEXT)}")
    expect(found == TEXT, f"{when} {found!r} is at {address} instead of {TEXT!r}")


def it_grows(lab, machines, k):
    lab.step("a machine whose memory has data is the first in the map: it keeps its memory, and the other's begins with zeros")
    first, second = machines
    first.run(f"dsmctl write 0 '{TEXT}'")
    second.run("dsmctl write 0 'not in the new memory'")
    configure(machines, k)
    for machine in machines:
        cluster.listen(machine)
        machine.run("dsmctl config check && systemctl restart dsmd")
    expect_kept(second, 0, "after the memory has grown")
    found = second.read(f"dsmctl read {k} 8 --format u64")
    expect(found == "0", f"the memory of the second machine begins with {found}")
    second.run(f"dsmctl write {k} '{TEXT}'")


def it_gets_another_k(lab, machines, k):
    lab.step("another k: dsmd refuses the old memory, and the steps of README.md keep the data")
    first, second = machines
    lines = readme.follower()
    typed = lines.steps(lines.section(lines.README.read_text(), "On several machines"))
    save, list_, delete, restore = ("sudo() { \"$@\"; }; " + command for command, _ in typed)
    first.run(save)
    name = first.read(list_).splitlines()[-1].split()[1]
    configure(machines, 2 * k)
    for machine in machines:
        machine.run("systemctl restart dsmd", status=None)
        service.expect_state(machine, "dsmd", "failed")
        expect("does not fit: k is" in service.messages(machine, "--unit=dsmd"), "dsmd does not say why it does not start")
        machine.run(delete)
    words = restore.split()
    first.run(" ".join([*words[:-1], name]))
    for address in (0, k):
        expect_kept(second, address, "with another k")
