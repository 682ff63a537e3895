"""A mcomp.cfg for a benchmark."""

import re


def _value(value):
    return value if re.fullmatch(r"\d+|true|false", str(value)) else f'"{value}"'


def _lines(values):
    return (f"{key} = {_value(value)}" for key, value in values.items())


def configure(path, name, k, servers, tables):
    """Writes it. `servers` is what each has in its [[server]], `tables` is {table: {key: value}}."""
    lines = list(_lines({"name": name, "k": k, "n": len(servers)}))
    for server in servers:
        lines += ["", "[[server]]", *_lines(server)]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *_lines(values)]
    path.write_text("\n".join(lines) + "\n")


def command(program, config, index=0):
    """What starts a program of dsm for one of the servers."""
    return [program, "--config", config, "--index", str(index)]
