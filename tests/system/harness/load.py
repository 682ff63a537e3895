"""Load programs that use the memory during a scenario, and check every result against what they wrote."""

import subprocess

from .outcome import Failure, expect, wait_until

FOLDER = "/var/tmp/load"

# The number of steps that show that a program makes progress.
STEPS = 5

END_SECONDS = 60

# Each program is a function. It runs until the file "stop" exists, and appends a byte to its file
# in each step. It fails when dsmctl fails or a result is wrong. At its end it prints the duration
# of its longest step.
SCRIPT = r"""
set -uo pipefail
cd /var/tmp/load || exit
name=$1 steps=0 longest=0
die() { echo "$name, after $steps steps: $*"; exit 1; }
continues() { began=${EPOCHREALTIME/./}; [[ ! -e stop ]]; }
step() {
    local took=$((${EPOCHREALTIME/./} - began))
    ((took <= longest)) || longest=$took
    steps=$((steps + 1))
    printf . >> "$name.steps"
    rest
}
# A pause in each step leaves processor time for the scenario. This read always times out.
exec {nothing}<> <(:)
rest() { read -r -t 0.02 -u "$nothing" || true; }

# Its own counter must equal the number of acknowledged additions. All adders share the other one.
adder() {
    local own=$1 shared=$2 old
    while continues; do
        old=$(dsmctl add "$own" 1) || die "dsmctl add ended with $?"
        [[ $old == "$steps" ]] || die "the counter at $own was $old, expected $steps"
        dsmctl add "$shared" 1 > /dev/null || die "dsmctl add ended with $?"
        step
    done
}

writer() {
    local address=$1
    while continues; do
        head -c 64K /dev/urandom > "$name.wrote"
        dsmctl write "$address" --file "$name.wrote" || die "dsmctl write ended with $?"
        dsmctl read "$address" 64KiB -o "$name.read" || die "dsmctl read ended with $?"
        cmp "$name.wrote" "$name.read" || die 'it did not read what it had written'
        step
    done
}

# One dsmctl process, which keeps its connections: it writes one block for every 30 steps of an
# adder, and the last block at the end.
stream() {
    local address=$1 blocks=$2 pace=$3
    head -c "$((8 * blocks))M" /dev/urandom > "$name.wrote"
    feed "$blocks" "$pace" | dsmctl write "$address" - || die "dsmctl write ended with $?"
    dsmctl read "$address" "$((8 * blocks))MiB" | cmp - "$name.wrote" || die 'the memory does not have what it wrote'
}
feed() {
    local blocks=$1 pace=$2
    exec 3< "$name.wrote"
    until ((steps == blocks)); do
        while continues && ((steps == blocks - 1 || $(wc --bytes < "$pace.steps") < 30 * steps)); do rest; done
        dd bs=8M count=1 iflag=fullblock status=none <&3
        step
    done
}

"${@:2}" || exit
echo "$longest"
"""


class Load:
    """Running programs: each is a name, its machine, and the function with its arguments."""

    def __init__(self, programs):
        self.programs, self.processes = programs, {}
        self.machines = list(dict.fromkeys(machine for _, machine, _ in programs))
        for machine in self.machines:
            machine.write(f"{FOLDER}/run", SCRIPT)
        for name, machine, _ in programs:
            machine.write(f"{FOLDER}/{name}.steps", "")
        for name, machine, arguments in programs:
            command = f"exec bash {FOLDER}/run {name} {arguments}"
            self.processes[name] = machine.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.wait_for_steps()

    def steps(self):
        """The number of steps of each program."""
        for name, machine, _ in self.programs:
            if self.processes[name].poll():
                raise Failure(f"{machine.name}: {self.processes[name].stdout.read()}")
        lines = [machine.read(f"cd {FOLDER} && stat --format='%n %s' *.steps") for machine in self.machines]
        words = " ".join(lines).split()
        return {name.removesuffix(".steps"): int(size) for name, size in zip(words[::2], words[1::2])}

    def wait_for_steps(self):
        """Waits until all programs have made progress, except for the streams, whose steps are few."""
        names = [name for name, _, arguments in self.programs if not arguments.startswith("stream")]
        before = self.steps()

        def all_progress():
            now = self.steps()
            return all(now[name] >= before[name] + STEPS for name in names)

        wait_until("the load to make progress", all_progress)

    def stop(self):
        """Ends all programs. Returns the number of steps of each, and the seconds of its longest step."""
        for machine in self.machines:
            machine.run(f"touch {FOLDER}/stop")
        longest = {}
        for name, machine, _ in self.programs:
            try:
                said, _ = self.processes[name].communicate(timeout=END_SECONDS)
            except subprocess.TimeoutExpired as late:
                raise Failure(f"{machine.name}: {name} does not end") from late
            expect(self.processes[name].returncode == 0 and said.strip().isdigit(), f"{machine.name}: {name}: {said}")
            longest[name] = int(said) / 1e6
        return self.steps(), longest
