"""Three servers of dsm on this machine, with their snapshot agents."""

import pathlib
import re
import struct
import time

from dsm import command, configure
from memory import own
from stage import Failure

SERVERS = 3
PAGE = 4096
FIRST_PORT = 7411
CUT_TIME = struct.Struct("<Q")
CUT_TIME_OFFSET = 32  # docs/snapshot-format.md
FIELD = re.compile(r'\b(DSM_[A-Z_]+)=(?:"([^"]*)"|(\S+))')


class Dsm:
    """A new memory of `total` bytes, rounded up to whole pages per server."""

    label = "dsm"

    def __init__(self, stage, programs, total, compression="none"):
        self.stage, self.programs = stage, programs
        self.k = -(-total // SERVERS // PAGE) * PAGE
        self.total = SERVERS * self.k
        self.config = stage.folder / "mcomp.cfg"
        self.load_arguments = ["--config", self.config]
        self.snapshots = stage.folder / "snapshots"
        self.snapshots.mkdir(exist_ok=True)
        self.agents, self.master = [], None
        self._configure(compression)
        self.servers = [self._start("dsmd", index) for index in range(SERVERS)]
        for index, server in enumerate(self.servers):
            stage.wait_until_listens(server, FIRST_PORT + index)
        self.can_snapshot = (programs / "dsm-snapshot").exists()
        if self.can_snapshot:
            self._start_agents()

    def _configure(self, compression):
        address = f"{self.stage.host}:"
        servers = [
            {"address": f"{address}{FIRST_PORT + index}", "snapshot": f"{address}{FIRST_PORT + SERVERS + index}"}
            for index in range(SERVERS)
        ]
        snapshot = {"directory": self.snapshots, "compression": compression, "keep": 1}
        configure(self.config, self.stage.name, self.k, servers, {"snapshot": snapshot})

    def _command(self, program, index):
        return command(self.programs / program, self.config, index)

    def _start(self, program, index, *arguments):
        return self.stage.start(f"{program}.{index}", [*self._command(program, index), *arguments])

    def _start_agents(self):
        self.agents = [self._start("dsm-snapshot", index, "agent") for index in range(SERVERS)]
        for index, agent in enumerate(self.agents):
            self.stage.wait_until_listens(agent, FIRST_PORT + SERVERS + index)

    def compress(self, compression):
        """Changes the compression: restarts the agents, but not the servers, which keep the memory."""
        for agent in self.agents:
            self.stage.stop(agent)
        self._configure(compression)
        self._start_agents()

    def close(self):
        """Stops all processes, and removes the memory."""
        for process in [*self.agents, *self.servers]:
            self.stage.stop(process)
        for path in self.stage.shared():
            path.unlink(missing_ok=True)

    def memory(self):
        """Bytes of private memory of all processes, and of the objects in /dev/shm."""
        processes = [process for process in [*self.servers, *self.agents, self.master] if process]
        total = sum(own(process.pid) for process in processes)
        for path in self.stage.shared():
            try:
                total += path.stat().st_blocks * 512
            except FileNotFoundError:
                pass  # a copy area was removed since the listing
        return total

    def snapshot(self):
        """Takes a snapshot and describes it. The file exists until `tidy`."""
        try:
            seconds, text = self.stage.run([*self._command("dsm-snapshot", 0), "create"], self._has_master)
        finally:
            self._has_master(None)
        return {"seconds": seconds, **self._outcome(text)}

    def tidy(self):
        """Removes the files. This uses a processor, so not while requests are measured."""
        for file in self.snapshots.glob("*.dsnap"):
            file.unlink()

    def _has_master(self, process):
        self.master = process

    def _outcome(self, text):
        pauses, copied, whole = [], [], {}
        for line in text.splitlines():
            fields = {name: quoted or plain for name, quoted, plain in FIELD.findall(line)}
            if "DSM_PAUSE_US" in fields:
                pauses.append(int(fields["DSM_PAUSE_US"]))
                copied.append(int(fields["DSM_PAGES_COPIED"]))
            if "DSM_DURATION_MS" in fields:
                whole = fields
        if len(pauses) != SERVERS or not whole:
            raise Failure(f"dsm-snapshot create did not log DSM_PAUSE_US of {SERVERS} servers and DSM_DURATION_MS:\n{text}")
        file = pathlib.Path(whole["DSM_FILE"])
        with file.open("rb") as opened:
            opened.seek(CUT_TIME_OFFSET)
            (cut,) = CUT_TIME.unpack(opened.read(CUT_TIME.size))
        # The file has the wall-clock time of the cut. At that instant the memory is frozen on all
        # servers.
        cut -= time.time_ns() - time.monotonic_ns()
        around = max(pauses) * 1000
        return {
            "pause_us": max(pauses),
            "pauses_us": pauses,
            "pages_copied": sum(copied),
            "copied_bytes": sum(copied) * PAGE,
            "file_bytes": file.stat().st_size,
            "own_seconds": int(whole["DSM_DURATION_MS"]) / 1000,
            "raw_bytes": int(whole["DSM_RAW_BYTES"]),
            "stored_bytes": int(whole["DSM_STORED_BYTES"]),
            "cut": (cut - around, cut + around),
        }
