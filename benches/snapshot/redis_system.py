"""A Redis server on this machine. Its snapshot is BGSAVE: fork(2), and the child writes the file."""

import pathlib
import shutil
import socket
import time

import redis
from memory import children, share
from stage import Failure

PORT = 6379
DUMP = "dump.rdb"
POLL_SECONDS = 0.02
SAVE_SECONDS = 1200


class Redis:
    """An empty server for `total` bytes."""

    label = "Redis"

    def __init__(self, stage, program, total):
        self.stage, self.total = stage, total
        self.folder = stage.folder / "redis"
        self.folder.mkdir()
        # The bytes are random. In the comparison dsm does not compress them, either.
        self.process = redis.start(stage, program, PORT, self.folder, rdbcompression="no")
        self.load_arguments = ["--redis", f"{stage.host}:{PORT}", "--size", str(total)]
        self.socket = socket.create_connection((stage.host, PORT), timeout=60)
        self.replies = self.socket.makefile("rb")
        self.can_snapshot = True

    def close(self):
        """Stops the server and removes its folder."""
        self.replies.close()
        self.socket.close()
        self.stage.stop(self.process)
        shutil.rmtree(self.folder)

    def ask(self, *words):
        """Sends a command and returns the reply."""
        self.socket.sendall(" ".join(words).encode() + b"\r\n")
        line = self.replies.readline().decode()
        if line.startswith("$"):
            return self.replies.read(int(line[1:]) + 2).decode()
        if not line.startswith(("+", ":")):
            raise Failure(f"Redis has replied {line.strip()!r} to {' '.join(words)}")
        return line[1:].strip()

    def info(self, section):
        """The reply to INFO as a dictionary."""
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def memory(self):
        """Bytes of memory of the server and of the child that saves, where shared pages count once."""
        return sum(share(pid) for pid in [self.process.pid, *children(self.process.pid)])

    def snapshot(self):
        """Runs BGSAVE to its end and describes it. The file exists until `tidy`."""
        begin = time.monotonic()
        cut_begin = time.monotonic_ns()
        self.ask("BGSAVE")
        cut_end = time.monotonic_ns()
        while (info := self.info("persistence"))["rdb_bgsave_in_progress"] != "0":
            if time.monotonic() - begin > SAVE_SECONDS:
                raise Failure(f"BGSAVE does not end within {SAVE_SECONDS} s")
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - begin
        if info["rdb_last_bgsave_status"] != "ok":
            raise Failure(f"BGSAVE failed:\n{pathlib.Path(self.process.log).read_text()[-2000:]}")
        return {
            "seconds": seconds,
            "pause_us": int(self.info("stats")["latest_fork_usec"]),
            "copied_bytes": int(info["rdb_last_cow_size"]),
            "file_bytes": (self.folder / DUMP).stat().st_size,
            "cut": (cut_begin, cut_end),
        }

    def tidy(self):
        """Removes the file. This uses a processor, so not while requests are measured."""
        (self.folder / DUMP).unlink()
