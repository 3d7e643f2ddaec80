#!/usr/bin/env python3
"""Draws what benches/scale.sh has measured: seconds beside the number of files, and of snapshots, both logarithmic.

    benches/scale.py FIGURES.tsv > scale.svg

A line of FIGURES.tsv is a part, a size, a step, a figure and its value, between tabs. Of several values of one kind the
median counts. Nothing but Python's own library is needed.
"""

import math
import statistics
import sys
from collections import defaultdict
from html import escape

# By part: the title, what the axis counts, and the steps with their names and colours.
PANELS = [
    (
        "trees",
        "Files in the source",
        [
            ("first", "first snapshot", "#1b6ca8"),
            ("one", "one file changed", "#2a9d4a"),
            ("unchanged", "nothing changed", "#d1701f"),
            ("find", "find -printf", "#888888"),
        ],
    ),
    (
        "snapshots",
        "Snapshots in the repository",
        [
            ("prune", "prune --dry-run", "#1b6ca8"),
            ("list", "list", "#2a9d4a"),
            ("one", "snapshot, one file changed", "#d1701f"),
            ("unchanged", "snapshot, nothing changed", "#888888"),
        ],
    ),
]
WIDTH, HEIGHT, LEFT, TOP, GAP = 400, 300, 60, 40, 90
LEGEND = 22


def read(path):
    """Seconds, by part, step and size."""
    values = defaultdict(list)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            part, size, step, figure, value = line.rstrip("\n").split("\t")
            if figure == "wall":
                # Less than a millisecond is not told apart, and nothing has no logarithm.
                values[part, step, int(size)].append(max(float(value), 0.001))
    return {key: statistics.median(several) for key, several in values.items()}


def decades(values):
    """The powers of ten around them."""
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def panel(seconds, part, title, steps, left):
    lines = {step: sorted((size, value) for (p, s, size), value in seconds.items() if (p, s) == (part, step))
             for step, _, _ in steps}
    points = [point for line in lines.values() for point in line]
    if not points:
        return []
    (x_low, x_high), (y_low, y_high) = (decades([point[axis] for point in points]) for axis in (0, 1))

    def place(size, value):
        x = left + (math.log10(size) - x_low) / (x_high - x_low) * WIDTH
        y = TOP + HEIGHT - (math.log10(value) - y_low) / (y_high - y_low) * HEIGHT
        return f"{x:.1f}", f"{y:.1f}"

    def text(x, y, words, anchor="middle", more=""):
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    svg = []
    for power in range(x_low, x_high + 1):
        x, _ = place(10**power, 10**y_low)
        svg.append(f'<path class="grid" d="M{x},{TOP}V{TOP + HEIGHT}"/>')
        svg.append(text(x, TOP + HEIGHT + 18, f"{10**power:,}"))
    for power in range(y_low, y_high + 1):
        _, y = place(10**x_low, 10**power)
        svg.append(f'<path class="grid" d="M{left},{y}H{left + WIDTH}"/>')
        svg.append(text(left - 6, float(y) + 4, f"{10.0**power:g} s", "end"))
    svg.append(text(left + WIDTH / 2, TOP - 16, title, more=' class="title"'))
    for at, (step, name, colour) in enumerate(steps):
        if not lines[step]:
            continue
        places = [place(*point) for point in lines[step]]
        path = "L".join(f"{x},{y}" for x, y in places)
        svg.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        svg += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        y = TOP + HEIGHT + 44 + at * LEGEND
        svg.append(f'<path d="M{left},{y - 4}h24" stroke="{colour}" stroke-width="2"/>')
        svg.append(text(left + 32, y, name, "start"))
    return svg


def main():
    seconds = read(sys.argv[1])
    width = LEFT + len(PANELS) * (WIDTH + GAP) - GAP + 30
    height = TOP + HEIGHT + 44 + 4 * LEGEND
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">')
    print("<style>text { font: 12px sans-serif; fill: #333 } .title { font-weight: bold } .grid { stroke: #ddd }</style>")
    print('<rect width="100%" height="100%" fill="#fff"/>')
    for at, (part, title, steps) in enumerate(PANELS):
        print("\n".join(panel(seconds, part, title, steps, LEFT + at * (WIDTH + GAP))))
    print("</svg>")


if __name__ == "__main__":
    main()
