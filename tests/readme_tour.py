#!/usr/bin/env python3
"""Follows the tour of README.md: runs its commands in one shell, in their order, and compares what they print.

    tests/readme_tour.py PROGRAMS NAME HOST FOLDER

PROGRAMS is the folder of dsmd, dsmctl and dsm-snapshot; in the place of the tour's own name, address and folder there are
NAME, HOST and FOLDER, so that two runs do not meet. tests/system runs the tour with those that README has. Exit code: 0 the
tour is as README has it, 1 it is not, and the output says where.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"

# What the tour calls its memory, where its servers are, and where it works.
NAME, HOST, FOLDER = "tour", "127.0.0.1", "/tmp/tour"

# Where a command's output begins. No program prints this byte.
MARK = "\x1e"

# How long the servers, or agents, that a command starts may take to be ready: a person looks at the screen before the next one.
READY_SECONDS = 60

# How long the whole tour may take on a busy machine; a minute is the rule, most of it for programs that are not optimised.
TOUR_SECONDS = 900

# What differs from run to run, and what stands for it.
VARYING = [
    # A log line may have a time before its level.
    (r"^(\S+ ){1,2}(?=(ERROR|WARN|INFO) )", ""),
    (r"dsm-\d{8}T\d{6}Z", "dsm-TIME"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\b[0-9a-f]{16}\b", "INCARNATION"),
    (r"\b[0-9a-f]{4} [0-9a-f]{4} [0-9a-f]{4}\b", "INCARNATIONS"),
    (r"\b\d+(\.\d+)? ?(ns|µs|us|ms|s)( \d+(ms|us|ns))*\b", "DURATION"),
    (r"\b\d+(\.\d+)? (B|KiB|MiB|GiB)\b", "SIZE"),
    (r"\b\d+(\.\d+)? (B|KiB|MiB|GiB)/s", "RATE"),
    # Attempts to connect were refused, and the time was over while another one was being made: on a busy machine.
    (r"no answer to the attempt to connect; before that: ", ""),
]

# The rows of `dsmctl status` and `dsmctl bench`, in which every number is one of these.
MEASURED_ROW = re.compile(r"^ +\d+  [\d.]+:\d+  up |^(reads|writes|all)  ")

# What the shell says of jobs that were killed, as told; another shell says it otherwise.
JOB_NOTICE = re.compile(r"^\S+: line \d+: +\d+ (Killed|Terminated) ")


def section(text, heading):
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit(f"README.md has no section {heading!r}")
    return found[1]


def steps(text):
    """The commands in a section's console blocks, each with the lines of output that are shown after it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        end = None
        for line in block.splitlines():
            if end is not None:
                found[-1][0].append(line)
                end = None if line == end else end
            elif line.startswith("$ "):
                found.append(([line[2:]], []))
                document = re.search(r"<<(\w+)", line)
                end = document[1] if document else None
            else:
                found[-1][1].append(line)
    return [("\n".join(command), output) for command, output in found]


def script(commands):
    """The commands as one script for bash, which marks where the output of each begins."""
    waits = (
        "await_all() { local place host; for place in $(sed -n \"s/^$1 = \\\"\\(.*\\)\\\"/\\1/p\" tour.cfg); do"
        f" local end=$((SECONDS + {READY_SECONDS})); until (exec 3<>/dev/tcp/${{place%:*}}/${{place##*:}}) 2>/dev/null;"
        " do ((SECONDS < end)) || { echo \"nothing listens on $place\"; break; }; sleep 0.1; done; done; }"
    )
    lines = ["exec 2>&1 </dev/null", waits]
    for command in commands:
        lines += ["printf '\\x1e'", command]
        if re.search(r"&( done)?$", command):
            lines.append("await_all snapshot" if "agent" in command else "await_all address")
    return "\n".join([*lines, "printf '\\x1e'"]) + "\n"


def normal(line):
    """The line without what differs from run to run."""
    measured = MEASURED_ROW.search(line)
    for pattern, stand_in in VARYING:
        line = re.sub(pattern, stand_in, line)
    if measured:
        line = re.sub(r"(?<![\d.:])\d+(?![\d.:])", "NUMBER", line)
    return re.sub(" +", " ", line).strip()


def differences(expected, said):
    """Says for each command whose output differs from the one that is shown, which it is and how."""
    outputs = said.split(MARK)[1:-1]
    for number, (command, shown) in enumerate(expected):
        if number >= len(outputs):
            yield f"$ {command}\nwas not reached"
            continue
        printed = [line for line in outputs[number].splitlines() if not JOB_NOTICE.match(line)]
        if [normal(line) for line in shown] != [normal(line) for line in printed]:
            yield "\n".join([f"$ {command}", "README.md shows:", *shown, "it printed:", *printed])


def tour():
    """The commands of the tour and what README.md shows that they print."""
    return steps(section(README.read_text(), "A tour of five minutes"))


def end(shell):
    """Ends the shell and what it has started: a tour that failed halfway has servers that run."""
    try:
        os.killpg(shell.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main():
    programs, name, host, folder = sys.argv[1:]
    # The programs are built already.
    stand_in = f"cargo() {{ PATH={programs}:$PATH; }}\n"
    expected = tour()
    own = script([command for command, _ in expected])
    own = re.sub(rf"{NAME}(?=\"|\.\*)", name, own).replace(HOST, host).replace(FOLDER, folder)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as anywhere:
        # Its output is no pipe: servers that a tour has not ended would keep that open.
        shell = subprocess.Popen(["bash", "-c", stand_in + own], cwd=anywhere, stdout=output, start_new_session=True)
        try:
            shell.wait(TOUR_SECONDS)
        except subprocess.TimeoutExpired:
            output.write(f"\nnot done after {TOUR_SECONDS} s".encode())
        finally:
            end(shell)
        output.seek(0)
        said = output.read().decode(errors="replace")
    said = said.replace(folder, FOLDER).replace(host, HOST).replace(f"/{name}.", f"/{NAME}.")
    said = re.sub(rf"\b{re.escape(name)}\b", NAME, said)
    found = list(differences(expected, said))
    print("\n\n".join(found) or f"{len(expected)} commands, and each printed what README.md shows")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
