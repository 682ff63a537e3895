"""The program around a benchmark: what it needs, what it prints and leaves, and its exit codes, those of sysexits(3)."""

import json
import sys

import program
from environment import Mistake
from stage import Failure

USAGE, NO_INPUT, UNAVAILABLE = 64, 66, 69


def run(name, make, needed, measure):
    """Runs the benchmark that `make {make}` names, once these programs are built. `measure` is given the folder where cargo
    builds, and returns the results, all that JSON can hold, and the lines for people. Returns the exit code."""

    def fail(code, message):
        print(f"{make}: {message}", file=sys.stderr)
        return code

    program.end_in_order()
    target = program.target()
    if message := program.missing(target / "release", needed, make):
        return fail(NO_INPUT, message)
    try:
        results, lines = measure(target)
    except Mistake as mistake:
        return fail(USAGE, mistake)
    except (Failure, OSError) as failure:
        return fail(UNAVAILABLE, failure)
    output = target / f"bench-{name}.json"
    output.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(lines))
    print(f"every round: {output}")
    return 0
