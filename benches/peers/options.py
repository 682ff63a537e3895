"""What the environment asks for; `run.py` says what there is."""

import os
import pathlib
from dataclasses import dataclass, field

import cells
from environment import Mistake, number, words


@dataclass
class Options:
    """See run.py."""

    quick: bool
    names: list
    labels: list
    rounds: int
    seconds: float
    warm_up: float
    settings: dict
    base: pathlib.Path | None
    base_settings: dict
    cells: list = field(init=False)

    def __post_init__(self):
        try:
            self.cells = cells.chosen(self.names)
        except ValueError as mistake:
            raise Mistake(f"BENCH_CELLS: {mistake}") from None

    @classmethod
    def from_environment(cls, programs):
        """Raises Mistake."""
        quick = bool(os.environ.get("BENCH_QUICK"))
        usual = (2, 0.1, 0.05) if quick else (5, 1.0, 0.3)
        base, base_settings = os.environ.get("BENCH_BASE"), _settings("BENCH_BASE_SET")
        if base_settings and not base:
            base = programs / "dsmd"
        if base and not os.access(base, os.X_OK):
            raise Mistake(f"BENCH_BASE={base} is no program: name another dsmd")
        return cls(
            quick=quick,
            names=words("BENCH_CELLS", ","),
            labels=[label.replace("_", " ") for label in words("BENCH_BACKENDS")],
            rounds=number("BENCH_ROUNDS", int, usual[0]),
            seconds=number("BENCH_SECONDS", float, usual[1]),
            warm_up=number("BENCH_WARM_UP", float, usual[2]),
            settings=_settings("BENCH_SET"),
            base=base and pathlib.Path(base).resolve(),
            base_settings=base_settings,
        )

    def wants(self, label):
        """Whether this back end is measured."""
        return not self.labels or label in self.labels or label == "base"

    @property
    def idle(self):
        """Whether idle connections are looked at."""
        return self.wants("dsmd") and (not self.names or cells.IDLE_NAME in self.names)

    @property
    def idle_seconds(self):
        """For how long."""
        return 2.0 if self.quick else 5.0


def _settings(name):
    """From "table.key=value ..." to {table: {key: value}}."""
    found = {}
    for word in os.environ.get(name, "").split():
        key, equals, value = word.partition("=")
        table, dot, key = key.partition(".")
        if not (equals and dot and key):
            raise Mistake(f"{name}: {word!r} is not as in limits.threads=2")
        found.setdefault(table, {})[key] = value
    return found
