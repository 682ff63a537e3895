"""The plot: a bar for each back end in each cell, the ratio of its requests per second to those of raw."""

from html import escape
from statistics import median

from figures import ratios
from measure import OURS

COLOURS = {"raw epoll": "#9aa0a6", OURS: "#1a73e8", "base": "#8ab4f8", "redis": "#d93025", "valkey": "#a142f4", "memcached": "#188038", "nbdkit": "#e37400"}

BAR, GAP = 11, 16
LEFT, WIDTH, RIGHT, TOP = 150, 640, 60, 64

# Longer bars are cut off, but show their number.
MOST = 2.5
STEP = 0.5

OVER_LINES = {"stroke": "white", "stroke_width": 3, "paint_order": "stroke"}


def _x(ratio):
    return LEFT + min(ratio, MOST) / MOST * WIDTH


def _text(x, y, text, **attributes):
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _line(x, top, bottom, colour, width=1, title=""):
    note = f"<title>{escape(title)}</title>" if title else ""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{colour}" stroke-width="{width}">{note}</line>'


def _legend(results):
    x = LEFT
    for label, colour in COLOURS.items():
        if not any(label in rounds[0] for rounds in results["cells"].values()):
            continue
        yield f'<rect x="{x}" y="26" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 14, 35, label)
        x += 22 + 7 * len(label)
    yield _line(x + 4, 24, 38, "#202124", 3)
    yield _text(x + 12, 35, "target of dsmd")


def _cell(name, rounds, target, top):
    """The bars of a cell, and their total height."""
    labels = [label for label in COLOURS if label in rounds[0]]
    bottom = top + BAR * len(labels)
    drawn, numbers = [_text(LEFT - 8, (top + bottom) / 2 + 4, name, text_anchor="end")], []
    for place, label in enumerate(labels):
        ratio, y = median(ratios(rounds, label)), top + BAR * place
        drawn.append(f'<rect x="{LEFT}" y="{y}" width="{_x(ratio) - LEFT:.1f}" height="{BAR - 1}" fill="{COLOURS[label]}"/>')
        numbers.append(_text(_x(ratio) + 4, y + BAR - 2, f"{ratio:.2f}", font_size=9, **OVER_LINES))
    if target:
        drawn.append(_line(_x(target), top - 3, bottom + 2, "#202124", 3, f"target {target}"))
    return drawn + numbers, bottom - top


def svg(results):
    """The text of the SVG file."""
    drawn, top = list(_legend(results)), TOP
    for name, rounds in results["cells"].items():
        bars, height = _cell(name, rounds, results["targets"].get(name), top)
        drawn += bars
        top += height + GAP
    grid = []
    for step in range(int(MOST / STEP) + 1):
        ratio = step * STEP
        grid.append(_line(_x(ratio), TOP - 8, top, "#202124" if ratio == 1 else "#dadce0"))
        grid.append(_text(_x(ratio), TOP - 12, f"{ratio:g}", text_anchor="middle"))
    width, height = LEFT + WIDTH + RIGHT, top + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    title = _text(LEFT, 16, "Requests per second, relative to a raw server with one thread per connection", font_weight="bold")
    style = 'font-family="sans-serif" font-size="11" fill="#202124">'
    return "\n".join([head + style, '<rect width="100%" height="100%" fill="white"/>', title, *grid, *drawn, "</svg>", ""])
