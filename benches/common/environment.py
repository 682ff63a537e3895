"""Settings of a benchmark from environment variables."""

import os


class UsageError(Exception):
    """A variable has an invalid value."""


def words(name, separator=None):
    """The words of a variable; an empty list when it is not set."""
    return [word for word in map(str.strip, os.environ.get(name, "").split(separator)) if word]


def number(name, kind, default=None):
    """A number above zero; `default` when the variable is not set. Raises UsageError."""
    text = os.environ.get(name)
    if not text:
        return default
    try:
        found = kind(text)
    except ValueError:
        raise UsageError(f"{name}={text}: expected a number above 0") from None
    if found <= 0:
        raise UsageError(f"{name}={text}: expected a number above 0")
    return found
