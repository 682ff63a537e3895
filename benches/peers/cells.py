"""What is measured: cells of requests, and what dsmd must reach in each."""

import fnmatch
import re
from dataclasses import dataclass

MIXES = {"r": "read", "w": "write", "m": "mixed"}
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}
NAME = re.compile(r"([rwm])(\d+)([km]?) c(\d+) d(\d+)(?: (same|split|free))?")


@dataclass(frozen=True)
class Cell:
    """Requests of one kind: what they do, how long they are, how many connections there are, how many are under way on each,
    and which processors serve whom."""

    name: str
    target: float | None = None

    def __post_init__(self):
        mix, number, unit, connections, depth, placement = NAME.fullmatch(self.name).groups()
        for name, value in {
            "mix": MIXES[mix],
            "size": int(number) * UNITS[unit],
            "connections": int(connections),
            "depth": int(depth),
            "placement": placement or "same",
        }.items():
            object.__setattr__(self, name, value)


# To the raw server with a thread for each connection, in the same round.
CELLS = [
    Cell("r8 c1 d1", 0.93),
    Cell("w4k c1 d1", 0.92),
    Cell("r64k c1 d1", 0.92),
    Cell("w64k c1 d1", 0.92),
    Cell("r8 c1 d16", 0.85),
    Cell("w4k c1 d16", 0.80),
    Cell("r4k c1 d16", 0.88),
    Cell("m512 c8 d1", 1.12),
    Cell("w8 c8 d16", 0.85),
    Cell("m4k c8 d16", 0.85),
    Cell("r8 c64 d1", 1.25),
    Cell("m512 c64 d16", 1.15),
    Cell("m4k c8 d16 free", 0.80),
    Cell("r8 c64 d1 free", 1.55),
    Cell("r8 c1 d1 split", 2.0),
    # Bimodal, and so without a target.
    Cell("r1m c1 d1"),
    Cell("w1m c1 d1"),
    Cell("r8 c1000 d1"),
]

# The cell of many connections: its requests per second to those of dsmd with fewer, and what each may take of memory.
MANY = "r8 c1000 d1"
FEWER = 64
MANY_TARGET = 0.8
MANY_BYTES = 64 << 10

# Connections that nobody uses, and the processor time that they may take: nothing that /proc shows, but for one tick.
IDLE = 64
IDLE_NAME = "idle"
IDLE_TICKS = 1


def chosen(patterns):
    """The cells of these names or patterns with *; names need not be in the table. With none, all. Raises ValueError."""
    found = []
    for pattern in patterns or ["*"]:
        matching = [cell for cell in CELLS if fnmatch.fnmatchcase(cell.name, pattern)]
        if not matching and pattern != IDLE_NAME:
            if not NAME.fullmatch(pattern):
                raise ValueError(f"{pattern!r} is no cell: they are called as in 'm4k c8 d16 free' or {IDLE_NAME!r}")
            matching = [Cell(pattern)]
        found += [cell for cell in matching if cell not in found]
    return found


def order(cells):
    """As they are measured: sizes together, for memcached has to be filled again for each."""
    return sorted(cells, key=lambda cell: cell.size)
