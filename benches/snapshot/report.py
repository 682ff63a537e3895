"""The report: the tables, and the targets that are met."""

from statistics import median

from memory import MIB
from rounds import RATE
from table import conclusion, size, spread, table, verdict

PAUSE_MS = 2.0
INDEPENDENT = 2.0  # the median pause at the largest k, divided by that at the smallest
DURATION = 1.5
EXTRA = 64 * MIB

LOADS = {
    "equal": f"send {RATE} writes of 64 bytes each second",
    "full": "send one write of 64 bytes after the other",
}


def each(rounds, *path):
    """The values at this path in all rounds that have one."""
    found = []
    for value in rounds:
        for key in path:
            value = value.get(key) if value else None
        if value is not None:
            found.append(value)
    return found


def milliseconds(values):
    """Median and maximum of microseconds."""
    return f"{median(values) / 1000:.2f} / {max(values) / 1000:.2f}" if values else "-"


def mebibytes(values):
    """Median and maximum of bytes."""
    return f"{median(values) / MIB:.1f} / {max(values) / MIB:.1f}" if values else "-"


def ratio(several, single):
    """The ratio of two medians."""
    return f"{median(several) / median(single):.1f}" if several and single and median(single) > 0 else "-"


WAITS = [
    ("pause, by its own clock: ms", ("snapshot", "pause_us")),
    ("longest request at the cut: ms", ("at_cut", "longest_us")),
    ("longest request during a snapshot: ms", ("during", "longest_us")),
    ("longest request in as long a time without: ms", ("without", "longest_us")),
    ("99.9 % of requests during a snapshot: ms", ("during", "p99_9_us")),
    ("99.9 % of requests without: ms", ("without", "p99_9_us")),
]


def wait_rows(sizes, load):
    """Rows on the waiting times of writers under this load."""
    for label in ("dsm", "Redis"):
        yield [f"{label}: median / max of {counts(sizes, label, load)} snapshots"]
        for text, path in WAITS:
            yield [f"  {text}", *(milliseconds(each(one[label][load], *path)) for one in sizes)]
        yield ["  writes per second during a snapshot", *(f"{writes_per_second(one[label][load]):.0f}" for one in sizes)]
        yield ["  a snapshot takes: s", *(f"{median(each(one[label][load], 'snapshot', 'seconds')):.2f}" for one in sizes)]
    yield ["Redis / dsm, of the medians"]
    for text, path in WAITS[:3]:
        yield [f"  {text.split(':')[0]}", *(ratio(*both(one, load, *path)) for one in sizes)]


def counts(sizes, label, part):
    """The number of rounds of each size."""
    return ", ".join(str(len(one[label][part])) for one in sizes)


def writes_per_second(rounds):
    """Writes per second during snapshots."""
    seconds = sum(one["during"]["to"] - one["during"]["from"] for one in rounds) / 1e9
    return sum(each(rounds, "during", "requests")) / seconds


def both(one, part, *path):
    """The values of Redis and of dsm."""
    return [each(one[label][part], *path) for label in ("Redis", "dsm")]


def memory_rows(sizes):
    """Rows on the memory that a snapshot takes."""
    for label, copied in (("dsm", "pages overwritten while it was made"), ("Redis", "rdb_last_cow_size")):
        yield [f"{label}: median / max of {counts(sizes, label, 'memory')} snapshots"]
        yield ["  extra memory: MiB", *(mebibytes(each(one[label]["memory"], "extra_bytes")) for one in sizes)]
        yield [f"  {copied}: MiB", *(mebibytes(each(one[label]["memory"], "snapshot", "copied_bytes")) for one in sizes)]
        yield ["  writes during a snapshot", *(counted(each(one[label]["memory"], "writes")) for one in sizes)]
    yield ["Redis / dsm, of the medians"]
    yield ["  extra memory", *(ratio(*both(one, "memory", "extra_bytes")) for one in sizes)]


def counted(values):
    """A median without a fraction."""
    return f"{median(values):.0f}" if values else "-"


def duration_rows(duration):
    """Rows on the duration of a snapshot and of dd."""
    ratios = duration_ratios(duration)
    compressed = duration["compressed"]
    yield ["dd conv=fsync: s", spread([one["dd"] for one in duration["rounds"]])]
    yield ["snapshot, not compressed: s", spread(each(duration["rounds"], "snapshot", "seconds"))]
    yield ["snapshot / dd, round by round", spread(ratios)]
    yield ["snapshot, compression 1: s", spread(each(compressed, "seconds"))]


def duration_ratios(duration):
    """The ratios of the duration of a snapshot to that of dd in the same round."""
    return [one["snapshot"]["seconds"] / one["dd"] for one in duration["rounds"]]


def targets(results):
    """Each target: its text, the result, and whether it is met."""
    sizes, duration = results["sizes"], results["duration"]
    measured = [one for one in sizes if each(one["dsm"]["equal"], "snapshot", "pause_us")]
    found = []
    for one in measured:
        for load in LOADS:
            waits = each(one["dsm"][load], "at_cut", "longest_us")
            wait = median(waits) / 1000 if waits else 0
            text = f"{size(one['bytes'])}, {load} load: a writer's pause at the cut, at the median, under {PAUSE_MS:g} ms"
            found.append((text, f"{wait:.2f} ms", wait < PAUSE_MS))
    if len(measured) > 1:
        first, last = measured[0], measured[-1]
        growth = pause(last) / pause(first)
        text = f"the pause does not depend on k: at {size(last['bytes'])} at most {INDEPENDENT:g} x that at {size(first['bytes'])}"
        found.append((text, f"{growth:.2f} x", growth <= INDEPENDENT))
    for one in measured:
        found += ahead(one)
        beyond = max(round["extra_bytes"] - round["snapshot"]["copied_bytes"] for round in one["dsm"]["memory"])
        text = f"{size(one['bytes'])}: extra memory under {size(EXTRA)} plus the overwritten pages"
        found.append((text, f"{beyond / MIB:.1f} MiB", beyond < EXTRA))
    if duration:
        value = median(duration_ratios(duration))
        found.append((f"{size(duration['bytes'])}, not compressed, in at most {DURATION:g} x dd", f"{value:.2f} x", value <= DURATION))
    return found


def pause(one):
    """The median of the pauses that dsm measures itself."""
    return median(each(one["dsm"]["equal"], "snapshot", "pause_us"))


def ahead(one):
    """The targets in which dsm must be ahead of Redis."""
    subjects = [(f"longest request, {load} load", load, ("during", "longest_us")) for load in LOADS]
    for text, part, path in [*subjects, ("extra memory", "memory", ("extra_bytes",))]:
        redis, dsm = both(one, part, *path)
        by = median(redis) / max(median(dsm), 1)
        yield f"{size(one['bytes'])}: ahead of Redis in {text}", f"{by:.1f} x", by > 1


def lines(results):
    """The lines of the report."""
    sizes, versions = results["sizes"], results["versions"]
    machine = results["machine"]
    yield f"Snapshots of three servers on one machine: {machine['processors']} processors, {size(machine['memory'])}, Linux {machine['kernel']}"
    yield f"dsm {versions['dsm']}, Redis {versions['Redis']}"
    heads = [size(one["bytes"]) for one in sizes]
    for load, what in LOADS.items() if sizes else ():
        yield ""
        yield f"{load.capitalize()} load: how long three writers wait that {what}"
        yield from table(wait_rows(sizes, load), heads)
    if sizes:
        yield ""
        yield f"Memory that a snapshot takes while three writers {LOADS['equal']}"
        yield from table(memory_rows(sizes), heads)
    if results["duration"]:
        yield ""
        yield f"How long a snapshot takes beside dd: median (min to max) of {len(results['duration']['rounds'])} rounds"
        yield from table(duration_rows(results["duration"]), [size(results["duration"]["bytes"])])
    yield ""
    yield from results["remarks"]
    yield "Targets"
    found = targets(results)
    for text, value, met in found:
        yield f"  {verdict(met)}  {text}: {value}"
    yield conclusion([met for _, _, met in found])
