"""The cells: kinds of requests to measure, and the target of dsmd in each."""

import fnmatch
import re
from dataclasses import dataclass

MIXES = {"r": "read", "w": "write", "m": "mixed"}
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}
NAME = re.compile(r"([rwm])(\d+)([km]?) c(\d+) d(\d+)(?: (same|split|free))?")


@dataclass(frozen=True)
class Cell:
    """Requests of one kind: their mix and size, the number of connections, the requests in flight on each, and the
    placement of server and client on processors."""

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


# Targets are ratios to the raw server with one thread per connection, in the same round.
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
    # These results are bimodal, so there is no target.
    Cell("r1m c1 d1"),
    Cell("w1m c1 d1"),
    Cell("r8 c1000 d1"),
]

# The cell with many connections: the minimum ratio of its requests per second to those with fewer
# connections, and the maximum memory per connection.
MANY = "r8 c1000 d1"
FEWER = 64
MANY_TARGET = 0.8
MANY_BYTES = 64 << 10

# The number of idle connections, and the maximum processor time that they may take: one tick in
# /proc.
IDLE = 64
IDLE_NAME = "idle"
IDLE_TICKS = 1


def chosen(patterns):
    """The cells with these names or patterns; all without a pattern. A name need not be in CELLS. Raises ValueError."""
    found = []
    for pattern in patterns or ["*"]:
        matching = [cell for cell in CELLS if fnmatch.fnmatchcase(cell.name, pattern)]
        if not matching and pattern != IDLE_NAME:
            if not NAME.fullmatch(pattern):
                raise ValueError(f"{pattern!r} is not a cell: expected a name such as 'm4k c8 d16 free' or {IDLE_NAME!r}")
            matching = [Cell(pattern)]
        found += [cell for cell in matching if cell not in found]
    return found


def order(cells):
    """The cells in the order of measurement, by size: memcached must be filled again for each size."""
    return sorted(cells, key=lambda cell: cell.size)
