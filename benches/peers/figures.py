"""From rounds to the figures of a report."""

from statistics import median

from measure import BASE, OURS

PEERS = ("redis", "memcached", "nbdkit")


def ratios(rounds, label, to=BASE):
    """Requests per second of this one to those of the other, round by round."""
    return [one[label]["per_second"] / one[to]["per_second"] for one in rounds if label in one and to in one]


def best_peer(rounds):
    """The peer with the highest ratio, if there is one."""
    there = [label for label in PEERS if label in rounds[0]]
    return max(there, key=lambda label: median(ratios(rounds, label)), default=None)


def middle(rounds, label, key):
    """The median of a figure; None when it is not there."""
    values = [one[label][key] for one in rounds if one[label][key] is not None]
    return median(values) if values else None


def against_best(rounds):
    """The best peer, and our ratios to it."""
    best = best_peer(rounds) if OURS in rounds[0] else None
    return (best, ratios(rounds, OURS, best)) if best else (None, [])
