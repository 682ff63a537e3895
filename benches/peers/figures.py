"""Computes the figures of a report from the rounds."""

from statistics import median

from measure import BASE, OURS

PEERS = ("redis", "valkey", "memcached", "nbdkit")


def ratios(rounds, label, to=BASE):
    """The ratios of the requests per second of `label` to those of `to`, one per round."""
    return [one[label]["per_second"] / one[to]["per_second"] for one in rounds if label in one and to in one]


def best_peer(rounds):
    """The peer with the highest ratio; None without a peer."""
    there = [label for label in PEERS if label in rounds[0]]
    return max(there, key=lambda label: median(ratios(rounds, label)), default=None)


def middle(rounds, label, key):
    """The median of a figure; None if no round has it."""
    values = [one[label][key] for one in rounds if one[label][key] is not None]
    return median(values) if values else None


def against_best(rounds):
    """The best peer, and the ratios of dsmd to it."""
    best = best_peer(rounds) if OURS in rounds[0] else None
    return (best, ratios(rounds, OURS, best)) if best else (None, [])
