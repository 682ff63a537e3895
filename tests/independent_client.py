#!/usr/bin/env python3
"""A dsm client written from docs/protocol.md alone, with only the Python standard library.

It shows that the document is sufficient, and checks a running server:

    independent_client.py check HOST PORT NAME K ADDRESS...
    independent_client.py count HOST PORT NAME K ADDRESS...

Server 0 listens on HOST and PORT; NAME, K and the ADDRESSes are the values of mcomp.cfg. "check" tries every operation
once. "count" adds 1 to one word 5,000 times and prints its progress: during this you may kill and restart the server.
The program uses the first 64 KiB of server 0. It prints each step, and exits with 1 at the first difference from the
document.
"""

import json
import os
import socket
import struct
import sys
import time

HEADER = 32
MAX_PAYLOAD = 1 << 20
VERSION = 1

HELLO, READ, WRITE, FILL, FETCH_ADD, SWAP, COMPARE_AND_SWAP, FETCH_AND, FETCH_OR, FETCH_XOR, COPY, STATUS, PING = range(1, 14)
CLOSING = {1, 2, 3, 4, 5, 6, 12, 13, 14, 15, 16, 17, 18}
WORTH_A_RETRY = {13, 14, 16, 17, 18}

REQUEST = struct.Struct("<2sBBIQQQ")
REPLY = struct.Struct("<2sBBIQH6sQ")
HELLO_REQUEST = struct.Struct("<II16sQII")
HELLO_REPLY = struct.Struct("<IIQQQIIII")


class Refused(Exception):
    """The server refused a request."""

    def __init__(self, code, text):
        super().__init__(f"refused with code {code}: {text}")
        self.code = code


class OutcomeUnknown(Exception):
    """A change was sent, and it is unknown whether it took effect."""


class Client:
    """One session with one server, for one thread."""

    def __init__(self, host, port, name, k, addresses, index=0, timeout=10.0):
        self.host, self.port, self.index, self.timeout = host, port, index, timeout
        lines = [f"name={name}", f"k={k}", f"n={len(addresses)}"]
        lines += [f"server.{place}={address}" for place, address in enumerate(addresses)]
        self.layout = "".join(line + "\n" for line in lines).encode()
        self.session = os.urandom(16)
        self.incarnation = 0
        self.next_id = 1
        self.window = 64
        self.unanswered = []  # (id, frame, changes), the oldest first
        self.socket = None
        self.resumed = 0  # how often the session was resumed on a new connection
        self.known = False  # whether a hello of this session has succeeded

    # --- connection -------------------------------------------------------------------------------------------------

    def connect(self):
        """Connects, sends hello, and resends the requests without a reply. Retries until the timeout."""
        end, pause = time.monotonic() + self.timeout, 0.01
        while True:
            try:
                self.socket = socket.create_connection((self.host, self.port), timeout=self.timeout)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return self.greet()
            except (OSError, Refused) as error:
                self.disconnect()
                final = isinstance(error, Refused) and error.code not in WORTH_A_RETRY
                if final or time.monotonic() > end:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 1.0)

    def greet(self):
        payload = HELLO_REQUEST.pack(VERSION, self.index, self.session, self.incarnation, int(self.known), 0)
        self.socket.sendall(self.frame(HELLO, 0, payload=payload + self.layout))
        _, payload = self.receive(HELLO, 0)
        version, index, incarnation, k, last_executed, max_atomic, window, resumed, _ = HELLO_REPLY.unpack(payload)
        check(version == VERSION and index == self.index, f"hello was answered by version {version}, server {index}")
        check(incarnation != 0, "the incarnation is zero")
        self.incarnation, self.k, self.max_atomic, self.window = incarnation, k, max_atomic, window
        was_known, self.known = self.known, True
        self.next_id = max(self.next_id, last_executed + 1)
        if was_known and not resumed:
            lost = [entry for entry in self.unanswered if entry[2]]
            self.unanswered = [entry for entry in self.unanswered if not entry[2]]
            if lost:
                raise OutcomeUnknown(f"{len(lost)} changes were sent, and the server has lost the session")
        for _, frame, _ in self.unanswered:
            self.socket.sendall(frame)
        self.resumed += resumed
        return resumed, last_executed

    def disconnect(self):
        """Closes the connection. The session stays."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    # --- frames -----------------------------------------------------------------------------------------------------

    @staticmethod
    def frame(opcode, id, argument=0, offset=0, operand=0, payload=b""):
        return REQUEST.pack(b"DQ", opcode, argument, len(payload), id, offset, operand) + payload

    def receive_exactly(self, count):
        parts = []
        while count:
            part = self.socket.recv(min(count, 65536))
            if not part:
                raise ConnectionError("the server closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def receive(self, opcode, id):
        """The value and payload of the next reply, which must be that to this request."""
        magic, found_opcode, _, length, found_id, code, _, value = REPLY.unpack(self.receive_exactly(HEADER))
        check(magic == b"DR" and length <= MAX_PAYLOAD, "a reply does not begin with DR, or is too long")
        payload = self.receive_exactly(length)
        if code in CLOSING:
            raise Refused(code, payload.decode())
        check((found_opcode, found_id) == (opcode, id), f"the reply to {opcode}, {id} is one to {found_opcode}, {found_id}")
        if code:
            raise Refused(code, payload.decode())
        return value, payload

    # --- requests ---------------------------------------------------------------------------------------------------

    def submit(self, opcode, **fields):
        """Sends a request without waiting. Collect the replies in the same order."""
        check(len(self.unanswered) < self.window, "the window is full: collect first")
        id, self.next_id = self.next_id, self.next_id + 1
        frame = self.frame(opcode, id, **fields)
        self.unanswered.append((id, frame, WRITE <= opcode <= COPY))
        try:
            self.socket.sendall(frame)
        except (OSError, AttributeError):
            pass  # collect() finds the broken connection and resends
        return id

    def collect(self):
        """The value and payload of the reply to the oldest request. Resumes the session when the connection breaks."""
        while True:
            id, frame, _ = self.unanswered[0]
            try:
                if self.socket is None:
                    raise ConnectionError("not connected")
                outcome = self.receive(frame[2], id)
            except Refused as refusal:
                if refusal.code in CLOSING:
                    self.disconnect()
                    if refusal.code in WORTH_A_RETRY:
                        self.connect()
                        continue
                self.unanswered.pop(0)
                raise
            except OSError:
                self.disconnect()
                self.connect()
                continue
            self.unanswered.pop(0)
            return outcome

    def ask(self, opcode, **fields):
        self.submit(opcode, **fields)
        return self.collect()

    def ping(self, data=b""):
        return self.ask(PING, payload=data)[1]

    def read(self, offset, length):
        return self.ask(READ, offset=offset, operand=length)[1]

    def write(self, offset, data):
        self.ask(WRITE, offset=offset, payload=data)

    def fill(self, offset, length, byte):
        self.ask(FILL, offset=offset, operand=length, argument=byte)

    def copy(self, source, target, length):
        self.ask(COPY, offset=target, operand=length, payload=struct.pack("<Q", source))

    def atomic(self, opcode, offset, operand):
        return self.ask(opcode, offset=offset, operand=operand)[0]

    def fetch_add(self, offset, operand):
        return self.atomic(FETCH_ADD, offset, operand)

    def compare_and_swap(self, offset, expected, new):
        return self.ask(COMPARE_AND_SWAP, offset=offset, operand=new, payload=struct.pack("<Q", expected))[0]

    def status(self):
        return json.loads(self.ask(STATUS)[1])


# --- the self-check -----------------------------------------------------------------------------------------------------


def check(condition, complaint):
    if not condition:
        print(f"FAILED: {complaint}")
        sys.exit(1)


def same(what, found, expected):
    check(found == expected, f"{what}: {found!r}, not {expected!r}")
    print(f"{what}: {found!r}")


def refused(what, code, request):
    try:
        request()
    except Refused as refusal:
        check(refusal.code == code, f"{what}: code {refusal.code}, not {code}")
        print(f"{what}: {refusal}")
        return
    check(False, f"{what} was not refused")


def basics(client):
    resumed, last_executed = client.connect()
    same("hello: a new session", (resumed, last_executed), (0, 0))
    print(f"hello: incarnation {client.incarnation:016x}, k {client.k}, window {client.window}")
    same("ping", client.ping(b"are you there?"), b"are you there?")
    client.write(4090, b"across a page")
    same("write, read", client.read(4090, 13), b"across a page")
    client.fill(4091, 3, ord("*"))
    same("fill", client.read(4090, 13), b"a***ss a page")
    client.copy(4090, 4096, 13)
    same("copy, overlapping", client.read(4096, 13), b"a***ss a page")
    client.write(64, bytes(16))
    same("fetch-add of 40", client.fetch_add(64, 40), 0)
    same("fetch-add of -1", client.fetch_add(64, (1 << 64) - 1), 40)
    same("compare-and-swap that matches", client.compare_and_swap(64, 39, 7), 39)
    same("compare-and-swap that does not", client.compare_and_swap(64, 39, 8), 7)
    same("swap", client.atomic(SWAP, 64, 0xF0), 7)
    same("fetch-or", client.atomic(FETCH_OR, 64, 0x0F), 0xF0)
    same("fetch-and", client.atomic(FETCH_AND, 64, 0x3C), 0xFF)
    same("fetch-xor", client.atomic(FETCH_XOR, 64, 0x3C), 0x3C)
    same("the word at last", client.read(64, 8), bytes(8))
    same("status: index and k", (client.status()["index"], client.status()["k"]), (client.index, client.k))


def refusals(client):
    refused("an atomic at offset 4", 9, lambda: client.fetch_add(4, 1))
    refused("a read past the end", 8, lambda: client.read(client.k, 1))
    refused("a read of 2^64-1 bytes", 10, lambda: client.read(0, (1 << 64) - 1))
    refused("opcode 200", 7, lambda: client.ask(200))
    refused("a ping with an offset", 11, lambda: client.ask(PING, offset=1))
    same("the connection is still good", client.ping(b"yes"), b"yes")


def pipeline(client):
    for _ in range(client.window):
        client.submit(FETCH_ADD, offset=72, operand=1)
    same("64 fetch-adds in flight", [client.collect()[0] for _ in range(client.window)], list(range(client.window)))


def resume(client):
    """Sends requests and closes the connection before it reads a reply. Each request still takes effect once."""
    for _ in range(20):
        client.submit(FETCH_ADD, offset=72, operand=1)
    client.submit(READ, offset=72, operand=8)
    client.disconnect()
    old = [client.collect()[0] for _ in range(20)]
    same("20 fetch-adds over a broken connection", old, list(range(64, 84)))
    same("the read behind them", struct.unpack("<Q", client.collect()[1])[0], 84)

    client.submit(FETCH_ADD, offset=72, operand=1)
    time.sleep(0.2)  # the reply has most likely arrived, but is not read
    client.disconnect()
    resumed, last_executed = client.connect()
    same("hello again: the session is known", resumed, 1)
    print(f"hello again: last executed is {last_executed}")
    same("the fetch-add that is sent a second time", client.collect()[0], 84)
    same("the counter", struct.unpack("<Q", client.read(72, 8))[0], 85)


def takeover(client, arguments):
    other = Client(*arguments)
    other.session = client.session
    resumed, last_executed = other.connect()
    same("a second connection for the session: resumed", resumed, 1)
    check(last_executed < other.next_id, "new ids start above last_executed")
    refused("a change on the older connection", 15, lambda: client.write(0, b"late"))
    same("a change on the newer one", other.fetch_add(72, 0), 85)
    other.disconnect()


def memory_lost(arguments):
    client = Client(*arguments)
    client.incarnation = 1
    refused("an incarnation of long ago", 5, client.connect)


def count(client, times=5000, in_flight=32, offset=80):
    """Each fetch-add finds the result of the one before it, also while the server is killed and restarted."""
    client.connect()
    for number in range(times + in_flight):
        if number < times:
            client.submit(FETCH_ADD, offset=offset, operand=1)
        if number >= in_flight:
            found = client.collect()[0]
            check(found == number - in_flight, f"fetch-add {number - in_flight} found {found}")
            if found % 500 == 0:
                print(f"counted to {found}", flush=True)
    same("the counter", struct.unpack("<Q", client.read(offset, 8))[0], times)
    print(f"the session was resumed {client.resumed} times")


def main():
    if len(sys.argv) < 7 or sys.argv[1] not in ("check", "count"):
        print(__doc__)
        return 64
    task, host, port, name, k, *addresses = sys.argv[1:]
    arguments = (host, int(port), name, int(k), addresses)
    client = Client(*arguments)
    if task == "count":
        count(client)
        return 0
    basics(client)
    refusals(client)
    pipeline(client)
    resume(client)
    takeover(client, arguments)
    memory_lost(arguments)
    print("all as docs/protocol.md says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
