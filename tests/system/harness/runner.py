"""Runs the scenarios, two at a time, and reports the outcome of each."""

import ast
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time

from . import cgroups
from .host import ISOLATE
from .outcome import FAILED, PASSED, SKIPPED

HERE = pathlib.Path(__file__).resolve().parents[1]

# Scenarios that run in parallel: a small host has two processors.
AT_ONCE = 2

# The timeout of a scenario.
SCENARIO_SECONDS = 400

WORDS = {PASSED: ("ok", "32"), FAILED: ("FAILED", "31"), SKIPPED: ("skipped", "33")}


def scenarios():
    """The names of all scenarios, and the first line of the docstring of each."""
    files = sorted(path for path in (HERE / "scenarios").glob("*.py") if path.stem != "__init__")
    return {path.stem: ast.get_docstring(ast.parse(path.read_text())).splitlines()[0] for path in files}


def word(status):
    text, colour = WORDS.get(status, WORDS[FAILED])
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[{colour}m{text:7}\x1b[0m" if coloured else f"{text:7}"


class Job:
    """One scenario on one release, in a child process."""

    def __init__(self, release, scenario, arguments):
        self.label = f"{release} {scenario}"
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        self.began = time.monotonic()
        text = json.dumps({"run": os.getpid(), "release": release, "name": scenario, **arguments})
        # --pdeathsig: the scenario ends with this process, also after a SIGKILL. A new session:
        # Ctrl-C must reach only the runner, which then ends the scenario in order.
        command = ["setpriv", "--pdeathsig", "KILL", *ISOLATE, sys.executable, "-B", "-m", "harness.inside", text]
        self.process = subprocess.Popen(
            command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.handle = os.pidfd_open(self.process.pid)

    def seconds(self):
        return time.monotonic() - self.began

    def end(self):
        """Ends the process if it still runs. Returns its status and its output."""
        late = self.process.poll() is None
        if late:
            self.process.kill()
        status = self.process.wait()
        os.close(self.handle)
        self.log.seek(0)
        text = self.log.read()
        self.log.close()
        return (FAILED, text + f"FAILED: not done after {self.seconds():.0f} s\n") if late else (status, text)


def show(job, status, text, verbose):
    seconds = job.seconds()
    reason = f": {text.splitlines()[-1]}" if status == SKIPPED and text else ""
    line = f"{word(status)}  {job.label} ({seconds:.1f} s){reason}"
    if status not in (PASSED, SKIPPED) or verbose:
        print(f"\n==> {job.label}\n{text}", end="")
    print(line, flush=True)
    return line


def run(jobs, verbose=False):
    """Runs (release, scenario, arguments) of each job, and returns the exit code of all."""
    waiting, running, lines, statuses = list(jobs), [], [], []
    cgroups.remove_stale()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(Job(*waiting.pop(0)))
            poll = select.poll()
            for job in running:
                poll.register(job.handle, select.POLLIN)
            left = min(SCENARIO_SECONDS - job.seconds() for job in running)
            done = {handle for handle, _ in poll.poll(max(0, left * 1000))}
            for job in [job for job in running if job.handle in done or job.seconds() >= SCENARIO_SECONDS]:
                running.remove(job)
                status, text = job.end()
                statuses.append(status)
                lines.append(show(job, status, text, verbose))
    finally:
        for job in running:
            job.end()
        cgroups.remove(os.getpid())
    return summary(lines, statuses)


def summary(lines, statuses):
    print("\nSummary")
    for line in lines:
        print(f"  {line}")
    passed, skipped = statuses.count(PASSED), statuses.count(SKIPPED)
    failed = len(statuses) - passed - skipped
    print(f"scenarios: {passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return FAILED if failed else PASSED if passed else SKIPPED
