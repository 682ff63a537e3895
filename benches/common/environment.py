"""What the environment asks a benchmark for."""

import os


class Mistake(Exception):
    """It asks for what there is not."""


def words(name, separator=None):
    """The words of a variable; none when it is not set."""
    return [word for word in map(str.strip, os.environ.get(name, "").split(separator)) if word]


def number(name, kind, usual=None):
    """A number above zero; the usual one when it is not set. Raises Mistake."""
    text = os.environ.get(name)
    if not text:
        return usual
    try:
        found = kind(text)
    except ValueError:
        raise Mistake(f"{name}={text} is no number") from None
    if found <= 0:
        raise Mistake(f"{name}={text} must be more than 0")
    return found
