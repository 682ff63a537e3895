#!/usr/bin/env python3
"""Runs the commands of README.md's tour in one shell, in their order, and compares their output with the page.

    tests/readme_tour.py PROGRAMS NAME HOST FOLDER

PROGRAMS is the folder of dsmd, dsmctl and dsm-snapshot. NAME, HOST and FOLDER replace the name, the address and the folder
of the tour, so that parallel runs do not conflict; tests/system runs the unchanged tour. Exit code: 0 every command printed
what README.md shows, 1 one did not, and the output says which.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"

# The name of the tour's memory, the address of its servers, and its folder.
NAME, HOST, FOLDER = "tour", "127.0.0.1", "/tmp/tour"

# Printed before the output of each command. No program prints this byte.
MARK = "\x1e"

# The timeout until the servers or agents that a command starts are ready. The script waits for
# them, as a reader does.
READY_SECONDS = 60

# The timeout of the whole tour on a busy machine. It usually takes a minute, with programs that are
# not optimised.
TOUR_SECONDS = 900

# Text that differs from run to run, and its replacement.
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
    # On a busy machine: after refused attempts to connect, the time was over during another
    # attempt.
    (r"no answer to the attempt to connect; before that: ", ""),
]

# The rows of `dsmctl status` and `dsmctl bench`, in which every number differs from run to run.
MEASURED_ROW = re.compile(r"^ +\d+  [\d.]+:\d+  up |^(reads|writes|all)  ")

# The message of bash about a killed job. Another shell's is different.
JOB_NOTICE = re.compile(r"^\S+: line \d+: +\d+ (Killed|Terminated) ")


def section(text, heading):
    """The text of the section with this heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit(f"README.md has no section {heading!r}")
    return found[1]


def steps(text):
    """The commands in the console blocks of a section, each with the lines of output after it."""
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
    """The commands as one bash script, which prints MARK before the output of each."""
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
    """The line without text that differs from run to run."""
    measured = MEASURED_ROW.search(line)
    for pattern, stand_in in VARYING:
        line = re.sub(pattern, stand_in, line)
    if measured:
        line = re.sub(r"(?<![\d.:])\d+(?![\d.:])", "NUMBER", line)
    return re.sub(" +", " ", line).strip()


def differences(expected, said):
    """A text for each command whose output differs from the expected one."""
    outputs = said.split(MARK)[1:-1]
    for number, (command, shown) in enumerate(expected):
        if number >= len(outputs):
            yield f"$ {command}\nwas not reached"
            continue
        printed = [line for line in outputs[number].splitlines() if not JOB_NOTICE.match(line)]
        if [normal(line) for line in shown] != [normal(line) for line in printed]:
            yield "\n".join([f"$ {command}", "README.md shows:", *shown, "it printed:", *printed])


def tour():
    """The commands of the tour, and the output of each that README.md shows."""
    return steps(section(README.read_text(), "A tour of five minutes"))


def end(shell):
    """Kills the shell and its child processes: after a failed tour, servers may still run."""
    try:
        os.killpg(shell.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main():
    programs, name, host, folder = sys.argv[1:]
    # The programs are already built.
    stand_in = f"cargo() {{ PATH={programs}:$PATH; }}\n"
    expected = tour()
    own = script([command for command, _ in expected])
    own = re.sub(rf"{NAME}(?=\"|\.\*)", name, own).replace(HOST, host).replace(FOLDER, folder)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as anywhere:
        # The output is a file: servers that still run would keep a pipe open.
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
