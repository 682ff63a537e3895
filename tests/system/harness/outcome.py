"""The outcomes of a scenario, and waiting for conditions."""

import time

# Exit codes of a scenario and of the whole run. 77 means "skipped" for automake and Debian.
PASSED, FAILED, SKIPPED = 0, 1, 77

# Seconds between two checks of a condition.
INTERVAL = 0.1


class Failure(Exception):
    """The product did not do what it must."""


class Skip(Exception):
    """The scenario cannot run on this host, and the product is not the reason."""


def expect(condition, message):
    """An assertion with a message, which also works under python3 -O."""
    if not condition:
        raise Failure(message)


def wait_until(what, check, seconds=30):
    """Calls check() until its result is true, and returns that. `what` completes the sentence "waited for"."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Failure(f"waited {seconds} s for {what} without success")
        time.sleep(INTERVAL)
