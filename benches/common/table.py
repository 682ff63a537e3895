"""Text of the reports."""

from math import comb
from statistics import median

from memory import GIB, MIB


def size(count):
    """A number of bytes as MiB or GiB."""
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{round(count / MIB):g} MiB"


def spread(values, digits=2):
    """Median, minimum and maximum."""
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def interval(values):
    """The bounds between which the median lies with a confidence of at least 95 %, whatever the distribution: two of the
    values themselves, as many from either end (the sign test). With fewer than six values it is all of them."""
    ordered, count = sorted(values), len(values)
    outside, left = 0.0, 0
    while left < count // 2:
        outside += comb(count, left) / 2**count
        if 2 * outside > 0.05:
            break
        left += 1
    left = max(left - 1, 0)
    return ordered[left], ordered[count - 1 - left]


def compared(ratios):
    """The median of ratios, its interval, and every one of them."""
    least, most = interval(ratios)
    return f"{median(ratios):.3f}, 95 % {least:.3f} to {most:.3f}: {' '.join(f'{ratio:.3f}' for ratio in ratios)}"


def table(rows, heads):
    """Lines with aligned columns; a row with one cell is a heading."""
    rows = [["", *heads], *rows]
    widths = [max(len(row[place]) for row in rows if len(row) > 1) for place in range(len(heads) + 1)]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        yield "  ".join(cells).rstrip()


def verdict(met):
    """The word for a target that is met or missed."""
    return "met   " if met else "MISSED"


def conclusion(verdicts):
    """The sentence on all targets."""
    missed = sum(not met for met in verdicts)
    if missed:
        return f"{missed} of {len(verdicts)} targets missed"
    return f"all {len(verdicts)} targets met" if verdicts else "nothing to compare"
