"""How a scenario ends, and waiting for conditions."""

import time

# Exit codes of a scenario and of the whole run; 77 is what automake and Debian take for "skipped".
PASSED, FAILED, SKIPPED = 0, 1, 77

# How often a condition is looked at again.
INTERVAL = 0.1


class Failure(Exception):
    """What was expected of the product did not happen."""


class Skip(Exception):
    """This cannot run here, for a reason that is no fault of the product."""


def expect(condition, message):
    """An assertion that survives python3 -O, and says what is wrong."""
    if not condition:
        raise Failure(message)


def wait_until(what, check, seconds=30):
    """Calls check() until it returns something true, and returns that. `what` completes the sentence "waited for"."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Failure(f"waited {seconds} s for {what}, in vain")
        time.sleep(INTERVAL)
