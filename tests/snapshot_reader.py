#!/usr/bin/env python3
"""A reader of snapshot files written from docs/snapshot-format.md alone, with only the Python standard library and zstd(1).

    snapshot_reader.py header FILE        prints the header as JSON
    snapshot_reader.py export FILE RAW    writes the N*k bytes of the memory as a sparse file

It checks everything that the document specifies except for the BLAKE3 hash, which the library does not have. The share of
a missing server is a hole.
"""

import json
import struct
import subprocess
import sys

MAGIC = b"dsmS\r\n\x1a\n"
END_MAGIC = b"dsmS-end"
PAGE = 4096

HEADER = struct.Struct("<8sII16sQQIIIIHHI")
SERVER = struct.Struct("<QHH")
FRAME = struct.Struct("<IIQIIB3sI")
ENTRY = struct.Struct("<QQII")
FOOTER = struct.Struct("<QQII32s8s")


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


assert crc32c(b"123456789") == 0xE3069283


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what} is {found!r}, expected {expected!r}")


def read_header(file):
    fixed = file.read(HEADER.size)
    fields = HEADER.unpack(fixed)
    magic, version, length, ident, cut_time, k, n, master, frame_size, flags, name_length, tool_length, reserved = fields
    check("magic", magic, MAGIC)
    check("version", version, 1)
    check("reserved", reserved, 0)
    rest = file.read(length - HEADER.size)
    check("checksum of the header", crc32c(fixed + rest[:-4]), struct.unpack("<I", rest[-4:])[0])
    at = 0

    def text(size):
        nonlocal at
        at += size
        return rest[at - size : at].decode("ascii")

    name, tool = text(name_length), text(tool_length)
    servers = []
    for _ in range(n):
        incarnation, address_length, hostname_length = SERVER.unpack_from(rest, at)
        at += SERVER.size
        address = text(address_length)
        servers.append({"incarnation": incarnation, "address": address, "hostname": text(hostname_length)})
    check("length of the header", at + 4, len(rest))
    check("partial", bool(flags & 1), any(server["incarnation"] == 0 for server in servers))
    return {
        "id": ident.hex(), "cut_time": cut_time, "k": k, "n": n, "master": master, "frame_size": frame_size,
        "partial": bool(flags & 1), "name": name, "tool": tool, "servers": servers, "length": length,
    }


def read_index(file, header):
    end = file.seek(-FOOTER.size, 2)
    index_offset, count, checksum, reserved, _, magic = FOOTER.unpack(file.read(FOOTER.size))
    check("magic at the end", magic, END_MAGIC)
    check("reserved bits of the footer", reserved, 0)
    check("end of the index", index_offset + count * ENTRY.size, end)
    file.seek(index_offset)
    index = file.read(count * ENTRY.size)
    check("checksum of the index", crc32c(index), checksum)
    entries = list(ENTRY.iter_unpack(index))
    check("bytes of frames", sum(FRAME.size + entry[3] for entry in entries), index_offset - header["length"])
    return entries


def read_frame(file, header, entry):
    address, offset, raw_length, stored_length = entry
    file.seek(offset)
    head = file.read(FRAME.size)
    server, pages, first_page, raw, stored, compression, reserved, checksum = FRAME.unpack(head)
    check("address", server * header["k"] + first_page * PAGE, address)
    check("lengths", (raw, stored, pages * PAGE, reserved), (raw_length, stored_length, raw_length, bytes(3)))
    data = file.read(stored)
    check("checksum of a frame", crc32c(head[:-4] + data), checksum)
    if compression == 1:
        data = subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
    else:
        check("compression", compression, 0)
    check("length of the pages", len(data), raw_length)
    return data


def main():
    command, path, *rest = sys.argv[1:]
    with open(path, "rb") as file:
        header = read_header(file)
        if command == "header":
            print(json.dumps(header, indent=2))
            return
        with open(rest[0], "wb") as raw:
            raw.truncate(header["n"] * header["k"])
            end = 0
            for entry in read_index(file, header):
                if entry[0] < end:
                    sys.exit("the index is not in order")
                end = entry[0] + entry[2]
                raw.seek(entry[0])
                raw.write(read_frame(file, header, entry))


if __name__ == "__main__":
    main()
