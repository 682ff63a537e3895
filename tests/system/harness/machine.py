"""A machine: an overlay over the image, in which systemd boots."""

import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import time

from . import cgroups, network
from .outcome import Failure, wait_until

# A boot takes about a second on an idle host.
BOOT_SECONDS = 60

# The default timeout of a command in a machine.
COMMAND_SECONDS = 60

ENVIRONMENT = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]


class Result:
    """The output and the exit status of a command in a machine."""

    def __init__(self, command, done):
        self.command, self.status = command, done.returncode
        self.stdout, self.stderr = done.stdout, done.stderr

    def __str__(self):
        return f"$ {self.command}\n{self.stdout}{self.stderr}[exit status {self.status}]"


class Machine:
    """One machine of a scenario. Its number determines its name and its address.

    A machine shares the users and the namespace limits of the host. One with `own_users` has its own user namespace.
    """

    def __init__(self, run, place, image, number, own_users=False):
        self.run_id, self.place, self.number = run, place, number
        self.name, self.address = f"machine{number}", network.address(number)
        self.root, self.console = place / "root", place / "console"
        self.process = self.leader = None
        self.boots, self.own_users = 0, own_users
        for folder in ("upper", "work", "root"):
            (place / folder).mkdir(parents=True)
        layers = f"lowerdir={image},upperdir={place}/upper,workdir={place}/work"
        if own_users:
            # nspawn changes the owner of every file: this stores only the new owner, not a copy.
            layers += ",metacopy=on"
        network.command("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        self.write("/etc/hostname", self.name + "\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        self.write("/etc/systemd/network/10-host0.network", network.unit(number))

    def boot(self):
        """Starts systemd, and waits until its boot is complete."""
        self.boots += 1
        groups = cgroups.make(self.run_id, f"{self.place.parent.name}-{self.name}-{self.boots}")
        enter = "".join(f"echo $$ > {shlex.quote(str(group))}/cgroup.procs && " for group in groups)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.place / f"notify-{self.boots}"
        listener.bind(str(path))
        nspawn = ["systemd-nspawn", "--quiet", "-D", str(self.root), "-b", "--register=no", "--keep-unit"]
        nspawn += [f"--network-bridge={network.BRIDGE}", f"--machine={self.name}", "--console=pipe", "--notify-ready=yes"]
        nspawn += ["--link-journal=no", "--resolv-conf=off", "--timezone=off"]
        if self.own_users:
            nspawn += ["--private-users=pick", "--private-users-ownership=chown"]
        with open(self.console, "a") as console, listener:
            self.process = subprocess.Popen(
                ["sh", "-c", enter + 'exec "$@"', "sh", *nspawn],
                # Only cgroup v2, which is all that the systemd of trixie supports, for every host.
                env={**os.environ, "NOTIFY_SOCKET": str(path), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
            self.leader = self.wait_for_boot(listener)
        self.run("systemctl is-system-running --wait || systemctl --failed", status=None)

    def wait_for_boot(self, listener):
        """Waits for READY=1. Returns the process id of the machine's process 1, which nspawn sends."""
        deadline, leader, ready = time.monotonic() + BOOT_SECONDS, None, False
        listener.settimeout(1)
        while not (leader and ready):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{self.name} does not boot. Its console:\n{self.console.read_text(errors='replace')}")
            try:
                lines = listener.recv(65536).decode(errors="replace").splitlines()
            except TimeoutError:
                continue
            for name, _, value in (line.partition("=") for line in lines):
                if name == "X_NSPAWN_LEADER_PID":
                    leader = int(value)
                ready = ready or (name, value) == ("READY", "1")
        return leader

    def inside(self, command, user=None):
        """The command line that runs a bash command in the machine."""
        enter = ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        if self.own_users:
            enter.append("--user")
        switch = ["runuser", "--user", user, "--"] if user else []
        return [*enter, "--", "env", "--ignore-environment", *ENVIRONMENT, *switch, "bash", "-c", f"cd /; {command}"]

    def run(self, command, status=0, user=None, input=None, seconds=COMMAND_SECONDS):
        """Runs a bash command in the machine. Fails on an exit status other than `status`, unless `status` is None."""
        options = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(
                self.inside(command, user), capture_output=True, text=True, errors="replace", timeout=seconds, **options
            )
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{self.name}: not done after {seconds} s: {command}") from late
        result = Result(command, done)
        if status is not None and result.status != status:
            raise Failure(f"{self.name}: expected exit status {status}:\n{result}")
        return result

    def read(self, command, **options):
        """The standard output of a command, without the newline at its end."""
        return self.run(command, **options).stdout.rstrip("\n")

    def start(self, command, user=None, **options):
        """Starts a bash command in the machine without waiting for it."""
        return subprocess.Popen(self.inside(command, user), **{"stdin": subprocess.DEVNULL, "text": True, **options})

    def write(self, path, text, mode=0o644):
        """Writes a file of the machine."""
        place = pathlib.Path(f"{self.root}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def copy(self, source, folder):
        """Copies a file of the host to a folder of the machine, and returns its path there."""
        place = pathlib.Path(f"{self.root}{folder}")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
        return f"{folder}/{source.name}"

    def power_cut(self):
        """Kills all processes of the machine at once. Its disk stays, its memory is lost."""
        os.kill(self.leader, 9)
        self.wait_until_off()

    def power_off(self):
        """Shuts the machine down in order."""
        self.run("systemctl poweroff", status=None)
        self.wait_until_off()

    def wait_until_off(self):
        wait_until(f"{self.name} to be off", lambda: self.process.poll() is not None)
        self.process = self.leader = None

    def report(self):
        """Diagnostic output after a failure: failed units, the state of dsm's units, and the journal."""
        if not self.leader or self.process.poll() is not None:
            return f"--- {self.name} is off; the end of its console\n{self.console.read_text(errors='replace')[-3000:]}"
        commands = ["systemctl --no-pager --failed", "systemctl --no-pager --lines=0 status 'dsm*'"]
        commands += ["journalctl --no-pager --boot --lines=100 --output=short-precise --unit='dsm*' --unit=init.scope"]
        return "\n".join(f"--- {self.name}: {self.run(command, status=None)}" for command in commands)
