"""The environment of a benchmark: its folder, its processes, its objects in /dev/shm. Closing the stage removes them."""

import os
import pathlib
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import time

SHARED_MEMORY = pathlib.Path("/dev/shm")
READY_SECONDS = 120  # on a virtual machine, the first use of memory can take 3 s/GiB
STOP_SECONDS = 20
RUN_SECONDS = 1200

# The programs must not use the caller's memory or notify the caller's service manager.
NOT_INHERITED = ("DSM_CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID")


class Failure(Exception):
    """The benchmark cannot continue; the message says why and what to do."""


class Stage:
    """A context manager."""

    def __init__(self, parent):
        self.name = f"dsmbench-{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=parent))
        # A random loopback address: no other program on this machine uses its ports.
        self.host = "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))
        self.processes = []
        self.environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        while self.processes:
            self.stop(self.processes[-1])
        for path in self.shared():
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def shared(self):
        """The objects of this stage in /dev/shm."""
        found = SHARED_MEMORY.glob(f"*{self.name}*")
        return list(found)

    def start(self, log, command, **options):
        """Starts a process in the background. `log` is the name of the file for its stderr."""
        path = self.folder / f"{log}.log"
        with path.open("ab") as stderr:
            options = {"stdin": subprocess.DEVNULL, "stdout": stderr, **options}
            # A new process group: Ctrl-C must reach only this program, which then stops the
            # process. But no new session: the kernel divides the processors among sessions first
            # (sched_autogroup), and the load on a system of many processes would starve.
            process = subprocess.Popen(command, stderr=stderr, env=self.environment, process_group=0, text=True, **options)
        process.log = path
        self.processes.append(process)
        return process

    def stop(self, process):
        """Sends SIGTERM, and SIGKILL if the process does not end in time."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        if process in self.processes:
            self.processes.remove(process)

    def run(self, command, started=lambda process: None):
        """Runs a program to its end. Returns its duration in seconds and its output. Calls `started` with the process."""
        begin = time.monotonic()
        process = self.start(f"run.{pathlib.Path(command[0]).name}", command)
        try:
            started(process)
            # Not Popen.wait: with a timeout, it polls only every 50 ms.
            pidfd = os.pidfd_open(process.pid)
            try:
                ended, _, _ = select.select([pidfd], [], [], RUN_SECONDS)
            finally:
                os.close(pidfd)
            seconds = time.monotonic() - begin
        finally:
            self.stop(process)
        text = process.log.read_text()
        process.log.unlink()
        line = " ".join(map(str, command))
        if not ended:
            raise Failure(f"{line} did not end within {RUN_SECONDS} s")
        if process.returncode != 0:
            raise Failure(f"{line} ended with {process.returncode}:\n{text.strip()}")
        return seconds, text

    def wait_until_listens(self, process, port):
        """Waits until the process accepts connections on the stage's address."""
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                return socket.create_connection((self.host, port), timeout=5).close()
            except OSError:
                what = f"{pathlib.Path(process.args[0]).name} on {self.host}:{port}"
                if process.poll() is not None:
                    said = process.log.read_text().strip()
                    raise Failure(f"{what} has ended with {process.returncode}:\n{said}") from None
                if time.monotonic() > end:
                    raise Failure(f"{what} does not listen after {READY_SECONDS} s") from None
                time.sleep(0.01)
