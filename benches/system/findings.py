"""The findings of the benchmark, and their table."""

from dataclasses import dataclass
from statistics import median

from table import conclusion, spread, table, verdict


@dataclass
class Finding:
    """A figure with its value in every round. A target is an upper or a lower bound of its median."""

    what: str
    rounds: list
    at_most: float | None = None
    at_least: float | None = None
    digits: int = 2

    @property
    def target(self):
        """The bound; None without a target."""
        return self.at_most if self.at_least is None else self.at_least

    @property
    def met(self):
        """Whether the median is within the bound; None without a target."""
        if self.target is None:
            return None
        middle = median(self.rounds)
        return middle <= self.target if self.at_least is None else middle >= self.target

    def row(self):
        """The row of the table."""
        figure = spread(self.rounds, self.digits)
        if self.target is None:
            return [self.what, figure, "", ""]
        bound = "at most" if self.at_least is None else "at least"
        distance = 100 * (median(self.rounds) / self.target - 1)
        return [self.what, figure, f"{bound} {self.target:g}", f"{verdict(self.met)} {distance:+4.0f} %"]

    def described(self):
        """The values for JSON."""
        described = {"what": self.what, "rounds": self.rounds, "median": median(self.rounds)}
        return described | {"at_most": self.at_most, "at_least": self.at_least, "met": self.met}


def lines(findings):
    """The lines of the table, and the number of missed targets. `findings` has a list for each part."""
    rows = [finding.row() for part in findings for finding in part]
    yield from table(rows, ["median (min to max)", "target", ""])
    met = [finding.met for part in findings for finding in part if finding.target is not None]
    if met:
        yield conclusion(met)
