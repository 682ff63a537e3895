"""An mcomp.cfg for a benchmark."""

import re


def _value(value):
    return value if re.fullmatch(r"\d+|true|false", str(value)) else f'"{value}"'


def _lines(values):
    return (f"{key} = {_value(value)}" for key, value in values.items())


def configure(path, name, k, servers, tables):
    """Writes mcomp.cfg. `servers` has the keys of each [[server]], `tables` is {table: {key: value}}."""
    lines = list(_lines({"name": name, "k": k, "n": len(servers)}))
    for server in servers:
        lines += ["", "[[server]]", *_lines(server)]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *_lines(values)]
    path.write_text("\n".join(lines) + "\n")


def command(program, config, index=0):
    """The command line of a program of dsm for the server with this index."""
    return [program, "--config", config, "--index", str(index)]
