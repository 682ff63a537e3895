"""The load, a child process: the program snapshot-load of this package."""

import json
import subprocess

from stage import Failure


class Load:
    """Writers that use a system during a `with`."""

    def __init__(self, stage, programs, system, rate=None):
        command = [programs / "snapshot-load", "write", *system.load_arguments]
        if rate:
            command += ["--rate", str(rate)]
        self.stage = stage
        self.process = stage.start("load", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        self._result()
        return self

    def __exit__(self, *_):
        self.stage.stop(self.process)

    def _result(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise Failure(f"the load has ended:\n{self.process.log.read_text().strip()}")
        return json.loads(line)

    def ask(self, command):
        """Sends the load a command and returns its result."""
        try:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # _result() reports the reason
        return self._result()


def fill(stage, programs, system):
    """Writes random bytes to the whole memory."""
    stage.run([programs / "snapshot-load", "fill", *system.load_arguments])
