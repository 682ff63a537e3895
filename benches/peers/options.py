"""The settings of the benchmark from the environment; run.py documents them."""

import os
import pathlib
from dataclasses import dataclass, field

import cells
from environment import UsageError, number, words


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
        except ValueError as error:
            raise UsageError(f"BENCH_CELLS: {error}") from None

    @classmethod
    def from_environment(cls, programs):
        """The settings of this process's environment. Raises UsageError."""
        quick = bool(os.environ.get("BENCH_QUICK"))
        default = (2, 0.1, 0.05) if quick else (5, 1.0, 0.3)
        base, base_settings = os.environ.get("BENCH_BASE"), _settings("BENCH_BASE_SET")
        if base_settings and not base:
            base = programs / "dsmd"
        if base and not os.access(base, os.X_OK):
            raise UsageError(f"BENCH_BASE={base} is not an executable program: give the path of a dsmd")
        return cls(
            quick=quick,
            names=words("BENCH_CELLS", ","),
            labels=[label.replace("_", " ") for label in words("BENCH_BACKENDS")],
            rounds=number("BENCH_ROUNDS", int, default[0]),
            seconds=number("BENCH_SECONDS", float, default[1]),
            warm_up=number("BENCH_WARM_UP", float, default[2]),
            settings=_settings("BENCH_SET"),
            base=base and pathlib.Path(base).resolve(),
            base_settings=base_settings,
        )

    def wants(self, label):
        """Whether this back end is measured."""
        return not self.labels or label in self.labels or label == "base"

    @property
    def idle(self):
        """Whether idle connections are measured."""
        return self.wants("dsmd") and (not self.names or cells.IDLE_NAME in self.names)

    @property
    def idle_seconds(self):
        """The duration of that measurement."""
        return 2.0 if self.quick else 5.0


def _settings(name):
    """Parses "table.key=value ..." into {table: {key: value}}."""
    found = {}
    for word in os.environ.get(name, "").split():
        key, equals, value = word.partition("=")
        table, dot, key = key.partition(".")
        if not (equals and dot and key):
            raise UsageError(f"{name}: {word!r} is not a setting such as limits.threads=2")
        found.setdefault(table, {})[key] = value
    return found
