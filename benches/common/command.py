"""The main function of a benchmark: its required programs, its output, and its exit codes of sysexits(3)."""

import json
import sys

import program
from environment import UsageError
from stage import Failure

USAGE, NO_INPUT, UNAVAILABLE = 64, 66, 69


def run(name, make, needed, measure):
    """Runs the benchmark of `make {make}`, if the programs in `needed` are built. `measure` gets cargo's target folder and
    returns the results, as values for JSON, and the lines of the report. Returns the exit code."""

    def fail(code, message):
        print(f"{make}: {message}", file=sys.stderr)
        return code

    program.end_in_order()
    target = program.target()
    if message := program.missing(target / "release", needed, make):
        return fail(NO_INPUT, message)
    try:
        results, lines = measure(target)
    except UsageError as error:
        return fail(USAGE, error)
    except (Failure, OSError) as failure:
        return fail(UNAVAILABLE, failure)
    output = target / f"bench-{name}.json"
    output.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(lines))
    print(f"results of every round: {output}")
    return 0
