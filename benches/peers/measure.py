"""Measures a cell: each round measures every back end once."""

import json
import os

import processors
from backends import PEERS, Dsmd, Raw, RawEpoll
from cells import FEWER, IDLE, MANY
from stage import Failure

TICKS = os.sysconf("SC_CLK_TCK")

BASE = "raw"
OURS = "dsmd"
FEWER_LABEL = f"dsmd c{FEWER}"
FIRST_PORT = 7411

# Servers of each of the two dsmd when they are compared: they take turns. Servers of the same program differ by up to 2 %,
# most likely by where their memory lies.
STARTS = 3


class Bench:
    """The servers, and the settings of their measurement."""

    def __init__(self, stage, programs, options, peers, say):
        self.stage, self.options, self.say = stage, options, say
        self.load = programs / "peers-load"
        self.processors = processors.own()
        self.backends = {}
        for label, make in self._makers(programs, peers):
            if label == BASE or options.wants(label):
                say(f"starting {label}")
                starts = STARTS if options.base and label in (OURS, "base") else 1
                self.backends[label] = [make(FIRST_PORT + self._started() + number) for number in range(starts)]

    def _started(self):
        return sum(map(len, self.backends.values()))

    def _makers(self, programs, peers):
        stage, load, options = self.stage, self.load, self.options
        yield BASE, lambda port: Raw(stage, load, port)
        yield RawEpoll.label, lambda port: RawEpoll(stage, load, port)
        yield OURS, lambda port: Dsmd(stage, load, port, programs / "dsmd", options.settings)
        if options.base:
            yield "base", lambda port: Dsmd(stage, load, port, options.base, options.base_settings, "base")
        for label, (path, _) in peers.items():
            yield label, lambda port, label=label, path=path: PEERS[label](stage, load, port, path)

    def possible(self, cell):
        """Whether this machine has enough processors for the cell."""
        return cell.placement == "same" or len(self.processors) > 1

    def cell(self, cell):
        """Measures the rounds of a cell. Each is a dictionary of the results by back end."""
        turns = {label: (some, cell.connections) for label, some in self.backends.items() if cell.connections <= some[0].most}
        if cell.name == MANY and OURS in turns:
            turns[FEWER_LABEL] = (self.backends[OURS], FEWER)
        for some, _ in turns.values():
            for one in some:
                one.prepare(cell.size)
        rounds, labels = [], list(turns)
        for number in range(self.options.rounds):
            # The order rotates, so that no back end always follows the same one.
            first = number % len(labels)
            order = [(label, *turns[label]) for label in labels[first:] + labels[:first]]
            rounds.append({label: self._measure(cell, some[number % len(some)], count) for label, some, count in order})
        return rounds

    def _measure(self, cell, backend, connections):
        server, client = self._placement(cell)
        processors.pin(backend.process.pid, server)
        command = ["run", *backend.load_arguments(cell.size, cell.depth), "--mix", cell.mix, "--connections", connections]
        command += ["--threads", min(connections, 2 if cell.placement == "free" else 1)]
        command += ["--warm-up", self.options.warm_up, "--seconds", self.options.seconds, "--pid", backend.process.pid]
        try:
            found = self._run_load(command, client)
        except Failure as failure:
            ended = backend.process.poll()
            state = "still runs" if ended is None else f"has ended with {ended}"
            raise Failure(f"{failure}\n{backend.label} {state}:\n{backend.process.log.read_text()[-2000:]}") from None
        server = found.pop("server")
        found["megabytes_per_second"] = found["per_second"] * cell.size / 1e6
        found["threads"] = server["threads"]
        busy = server["ticks"] / TICKS / found.pop("server_seconds")
        found["server_seconds_per_million"] = busy / found["per_second"] * 1e6 if found["per_second"] else None
        found["bytes_per_connection"] = max(0, server["anonymous_bytes"] - backend.own_before) / connections
        return found

    def _placement(self, cell):
        """The processors of the server and of the client."""
        first, everywhere = {self.processors[0]}, set(self.processors)
        return {"same": (first, first), "split": (first, {self.processors[-1]}), "free": (everywhere, everywhere)}[cell.placement]

    def _run_load(self, command, where):
        """Runs the load on these processors, and returns its results."""
        return json.loads(processors.run(self.stage, [self.load, *command], where))

    def idle(self):
        """The processor time of the server with idle connections, in ticks, and the duration of the measurement."""
        backend = self.backends[OURS][0]
        backend.prepare(8)
        seconds = self.options.idle_seconds
        command = ["idle", *backend.load_arguments(8, 1), "--connections", IDLE, "--seconds", seconds, "--pid", backend.process.pid]
        return {"ticks": self._run_load(command, set(self.processors))["server"]["ticks"], "seconds": seconds}
