#!/usr/bin/env python3
"""A master and an agent written from docs/agent-protocol.md alone, with only the Python standard library.

    independent_snapshots.py take    NAME K FILE ADDRESS=AGENT...   takes a snapshot, and writes the N*k bytes to FILE
    independent_snapshots.py restore NAME K FILE ADDRESS=AGENT...   restores the N*k bytes of FILE into the memory
    independent_snapshots.py agent   NAME K FILE INDEX ADDRESS=AGENT...   is the agent of server INDEX for one snapshot,
                                                                          whose memory is that part of FILE

NAME, K and the ADDRESSes are the values of mcomp.cfg. The agent of a server listens on AGENT. The program exits with 1 at
the first difference from the document.
"""

import json
import os
import socket
import struct
import sys
import time

CONTROL, FRAME, DATA = 1, 2, 3
HEADER = struct.Struct("<2sBBIII")
FRAME_HEADER = struct.Struct("<IIQIIB3sI")
PAGE = 4096
MAX_DATA = 1 << 20
LONGEST = {CONTROL: 1 << 20, FRAME: 32 + MAX_DATA, DATA: 8 + MAX_DATA}
TIMEOUT = 30.0
LEASE_US = 10_000_000


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what} is {found!r}, and not {expected!r}")


class Connection:
    """One side of a connection."""

    def __init__(self, connected):
        self.socket = connected
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(TIMEOUT)

    def send(self, kind, payload):
        checksum = 0 if kind == FRAME else crc32c(payload)
        self.socket.sendall(HEADER.pack(b"DA", 1, kind, len(payload), checksum, 0) + payload)

    def send_control(self, name, **fields):
        self.send(CONTROL, json.dumps({name: fields} if fields else name).encode())

    def receive_exactly(self, count):
        data = bytearray()
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError("the other side has closed the connection")
            data += more
        return bytes(data)

    def receive(self):
        magic, version, kind, length, checksum, _ = HEADER.unpack(self.receive_exactly(HEADER.size))
        check("magic", magic, b"DA")
        check("version", version, 1)
        check("length is allowed", length <= LONGEST[kind], True)
        payload = self.receive_exactly(length)
        if kind != FRAME:
            check("checksum", crc32c(payload), checksum)
        return kind, payload

    def receive_control(self):
        """A request or a response: its name, and its fields."""
        kind, payload = self.receive()
        check("kind", kind, CONTROL)
        value = json.loads(payload)
        return (value, {}) if isinstance(value, str) else next(iter(value.items()))

    def expect(self, expected):
        name, fields = self.receive_control()
        if name == "refused":
            sys.exit(f"refused ({fields['reason']}): {fields['message']}")
        check("the response", name, expected)
        return fields

    def ask(self, name, expected, **fields):
        self.send_control(name, **fields)
        return self.expect(expected)


class System:
    def __init__(self, name, k, servers):
        self.k = int(k)
        pairs = [server.split("=") for server in servers]
        self.agents = [agent.rsplit(":", 1) for _, agent in pairs]
        lines = [f"name={name}", f"k={k}", f"n={len(pairs)}"]
        lines += [f"server.{index}={address}" for index, (address, _) in enumerate(pairs)]
        self.layout = "".join(line + "\n" for line in lines)

    def hello_all(self):
        connections = []
        for index, (host, port) in enumerate(self.agents):
            connection = Connection(socket.create_connection((host, int(port)), timeout=5.0))
            fields = connection.ask("hello", "welcome", layout=self.layout, index=index)
            check("the hostname is printable", all(33 <= ord(c) <= 126 for c in fields["hostname"]), True)
            connections.append(connection)
        return connections


def freeze_all(connections, shut):
    for connection in connections:
        connection.send_control("freeze", lease_us=LEASE_US)
    for connection in connections:
        check("shut", connection.expect("frozen")["shut"], shut)


def take(system, path):
    connections = system.hello_all()
    for connection in connections:
        claimed = connection.ask("claim", "claimed", purpose="snapshot", id=os.urandom(16).hex())
        check("there is an incarnation", claimed["incarnation"] != 0, True)
    freeze_all(connections, False)
    for connection in connections:
        connection.send_control("cut", copy_area=system.k)
    for index, connection in enumerate(connections):
        print(f"server {index} kept its writers out for {connection.expect('cut')['pause_us']} us")
    with open(path, "wb") as file:
        file.truncate(system.k * len(connections))
        for index, connection in enumerate(connections):
            connection.send_control("send", level=0, frame_size=16 * PAGE)
            next_page = 0
            while True:
                kind, payload = connection.receive()
                if kind == CONTROL:
                    check("the last response", "sent" in json.loads(payload), True)
                    break
                check("kind", kind, FRAME)
                head, data = payload[: FRAME_HEADER.size], payload[FRAME_HEADER.size :]
                server, pages, first, raw, stored, compression, reserved, checksum = FRAME_HEADER.unpack(head)
                check("server", server, index)
                check("the order of pages", first >= next_page and 1 <= pages <= 16, True)
                check("lengths", (raw, stored, len(data), compression, reserved), (pages * PAGE, raw, raw, 0, bytes(3)))
                check("checksum of a frame", crc32c(head[:-4] + data), checksum)
                next_page = first + pages
                file.seek(index * system.k + first * PAGE)
                file.write(data)


def restore(system, path):
    connections = system.hello_all()
    for connection in connections:
        connection.ask("claim", "claimed", purpose="restore", id="restored-by-python")
    before = [connection.ask("activity", "activity") for connection in connections]
    time.sleep(1)
    check("the activity", [connection.ask("activity", "activity") for connection in connections], before)
    freeze_all(connections, False)
    for connection in connections:
        connection.send_control("shut")
    for connection in connections:
        connection.expect("shut")
    with open(path, "rb") as file:
        parts = [file.read(system.k) for _ in connections]
    for connection, part in zip(connections, parts):
        connection.send(DATA, struct.pack("<Q", 0) + part[:PAGE])
        connection.ask("written", "written")
    for connection, part in zip(connections, parts):
        for at in range(0, system.k, PAGE):
            page = part[at : at + PAGE]
            if any(page):
                connection.send(DATA, struct.pack("<Q", at) + page)
            else:
                connection.send_control("zeros", offset=at, length=len(page))
        connection.ask("written", "written")
    for index, connection in enumerate(connections):
        print(f"server {index} has incarnation {connection.ask('commit', 'committed')['incarnation']:016x}")


def agent(system, path, index):
    host, port = system.agents[index]
    with open(path, "rb") as file:
        file.seek(index * system.k)
        memory = file.read(system.k)
    listener = socket.create_server((host, int(port)))
    print("listening", flush=True)
    # A master closes its connection when it fails. Then serve the next one.
    while not is_served(Connection(listener.accept()[0]), system, index, memory):
        pass


def is_served(connection, system, index, memory):
    states = {"hello": "connected", "claim": "greeted", "freeze": "claimed", "cut": "frozen", "send": "cut"}
    state = "connected"
    while True:
        try:
            name, fields = connection.receive_control()
        except EOFError:
            return False
        if states.get(name) != state:
            connection.send_control("refused", reason="protocol", message=f"{name} is out of turn")
            sys.exit(f"{name} in the state {state}")
        if name == "hello":
            check("hello", (fields["layout"], fields["index"]), (system.layout, index))
            connection.send_control("welcome", hostname="python")
            state = "greeted"
        elif name == "claim":
            check("purpose", fields["purpose"], "snapshot")
            connection.send_control("claimed", incarnation=2**64 - 1)
            state = "claimed"
        elif name == "freeze":
            connection.send_control("frozen", shut=False)
            state = "frozen"
        elif name == "cut":
            connection.send_control("cut", pause_us=0)
            state = "cut"
        else:
            for first in range(0, system.k // PAGE):
                page = memory[first * PAGE : (first + 1) * PAGE]
                if any(page):
                    head = FRAME_HEADER.pack(index, 1, first, PAGE, PAGE, 0, bytes(3), 0)[:-4]
                    connection.send(FRAME, head + struct.pack("<I", crc32c(head + page)) + page)
            connection.send_control("sent", pages_copied=0)
            return True


def main():
    mode, name, k, path, *rest = sys.argv[1:]
    if mode == "agent":
        agent(System(name, k, rest[1:]), path, int(rest[0]))
    else:
        {"take": take, "restore": restore}[mode](System(name, k, rest), path)
    print("all as docs/agent-protocol.md says")


main()
