"""The report: the tables, and the targets that are met."""

from statistics import median

import cells
from figures import PEERS, against_best, middle, ratios
from measure import BASE, FEWER_LABEL, OURS
from table import compared, conclusion, size, table, verdict

HEADS = ["req/s", "MB/s", "p50 us", "p99 us", "p99.9 us", "server s/M", "to raw", "(min to max)"]


def spread(values):
    """Minimum and maximum."""
    return f"({min(values):.2f} to {max(values):.2f})"


def shown(value, digits=1):
    """A number, or - for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def cell_rows(rounds):
    """One row per back end."""
    for label in rounds[0]:
        values = [middle(rounds, label, key) for key in ("per_second", "megabytes_per_second", "p50_us", "p99_us", "p99_9_us")]
        found = ratios(rounds, label)
        seconds = shown(middle(rounds, label, "server_seconds_per_million"), 2)
        yield [f"  {label}", shown(values[0], 0), *map(shown, values[1:]), seconds, f"{median(found):.2f}", spread(found)]


def comparisons(rounds):
    """The ratios of dsmd to the best peer, and to another dsmd."""
    best, found = against_best(rounds)
    if best:
        yield f"  dsmd to the best peer, {best}: {median(found):.2f} {spread(found)}"
    if found := ratios(rounds, OURS, "base"):
        yield f"  dsmd to base: {compared(found)}"


def target_rows(results):
    """One row per cell: the ratios of all back ends to raw, and the target."""
    for name, rounds in results["cells"].items():
        row = [name, shown(middle(rounds, BASE, "per_second") / 1000, 1)]
        for label in (*PEERS, OURS):
            found = ratios(rounds, label)
            row.append(f"{median(found):.2f}" if found else "-")
        found, target = ratios(rounds, OURS), cells.Cell(name, results["targets"].get(name)).target
        row += [spread(found) if found else "-", f"{target:.2f}" if target else "-"]
        if found and target:
            row.append(f"{verdict(median(found) >= target)} {100 * (median(found) / target - 1):+4.0f} %")
        else:
            row.append("")
        yield row


def further(results):
    """The targets that are not ratios to raw: the text of each, its result, and whether it is met."""
    rounds = results["cells"].get(cells.MANY)
    if rounds and (found := ratios(rounds, OURS, FEWER_LABEL)):
        text = f"{cells.MANY} to {cells.FEWER} connections, at least {cells.MANY_TARGET}"
        yield text, f"{median(found):.2f} {spread(found)}", median(found) >= cells.MANY_TARGET
        found = middle(rounds, OURS, "bytes_per_connection")
        text = f"{cells.MANY}: memory of the server for each, under {cells.MANY_BYTES >> 10} KiB"
        yield text, f"{found / 1024:.1f} KiB", found < cells.MANY_BYTES
    if idle := results["idle"]:
        text = f"{cells.IDLE} idle connections for {idle['seconds']:g} s: at most {cells.IDLE_TICKS} tick of processor time"
        yield text, f"{idle['ticks']}", idle["ticks"] <= cells.IDLE_TICKS


def verdicts(results):
    """Whether each target is met."""
    found = []
    for name, rounds in results["cells"].items():
        target = results["targets"].get(name)
        if target and OURS in rounds[0]:
            found.append(median(ratios(rounds, OURS)) >= target)
    return found + [met for _, _, met in further(results)]


def lines(results):
    """The lines of the report."""
    machine, versions = results["machine"], results["versions"]
    described = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"{machine['processors']} processors, {size(machine['memory'])}, Linux {machine['kernel']}; {described}"
    yield f"Median of {results['rounds']} rounds of {results['seconds']:g} s; ratios are those of each round"
    rows = []
    for name, rounds in results["cells"].items():
        rows += [[name], *cell_rows(rounds), *([text] for text in comparisons(rounds))]
    yield ""
    yield from table(rows, HEADS)
    yield ""
    yield "Requests per second, to those of raw"
    yield from table(target_rows(results), ["raw, 1000/s", *PEERS, OURS, "(min to max)", "target", ""])
    yield ""
    for text, found, met in further(results):
        yield f"{verdict(met)}  {text}: {found}"
    yield from results["remarks"]
    yield conclusion(verdicts(results))
