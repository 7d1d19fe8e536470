"""Draw docs/diagrams/family.svg: ``python docs/diagrams/family.py``."""

from html import escape
from pathlib import Path

SAMPLES, POSITIONS, CHANNELS = 4, 3, 6      # of the arrays drawn
CELL, GAP = 17, 6                           # pixels; GAP between samples
WIDTH, PANEL, HEIGHT = 940, 225, 610
FIRST, TINTS = "#e07b39", ("#cfe0f3", "#a9c6e6")


# (vertical, horizontal) number of the statistic that a value of sample n, position s and channel c belongs to.
MEMBERS = (
    ("Batch norm", "all samples, 1 channel", lambda n, s, c: (0, c)),
    ("Ghost batch norm, k = 2", "k samples, 1 channel", lambda n, s, c: (n // 2, c)),
    ("Instance norm", "1 sample, 1 channel", lambda n, s, c: (n, c)),
    ("Group norm, 3 groups", "1 sample, C / 3 channels", lambda n, s, c: (n, c // 2)),
    ("Layer norm over (C, S)", "1 sample, all channels", lambda n, s, c: (n, 0)),
    ("Layer norm over C", "1 position, all channels", lambda n, s, c: (n * POSITIONS + s, 0)),
    ("RMS norm over C", "the same, about zero", lambda n, s, c: (n * POSITIONS + s, 0)),
    ("Whitening", "all samples, C x C covariances", lambda n, s, c: (0, 0)),
)


def top(n, s):
    """Return the distance of a row from the top of its grid."""
    return (n * POSITIONS + s) * CELL + n * GAP


def colour(statistic):
    """Return orange for the first statistic, and one of two tints for others, so that neighbours differ."""
    return TINTS[sum(statistic) % 2] if any(statistic) else FIRST


def grid(x, y, member):
    """Return the array with a colour for each statistic, as SVG."""
    return [f'<rect x="{x + c * CELL}" y="{y + top(n, s)}" width="{CELL}" height="{CELL}" '
            f'fill="{colour(member(n, s, c))}" class="cell"/>'
            for n in range(SAMPLES) for s in range(POSITIONS) for c in range(CHANNELS)]


def panel(i, title, text, member):
    """Return a member of the family with its title, as SVG."""
    x, y = 20 + i % 4 * (PANEL + 5), 45 + i // 4 * 285
    left = x + 60
    parts = [f'<text x="{x + PANEL / 2}" y="{y - 14}" class="title">{escape(title)}</text>',
             f'<text x="{x + PANEL / 2}" y="{y + 4}">{escape(text)}</text>',
             *grid(left, y + 16, member)]
    for n in range(SAMPLES):
        middle = y + 16 + top(n, 1) + CELL / 2 + 5
        parts.append(f'<text x="{left - 22}" y="{middle}" class="small">n = {n}</text>')
    return parts


def draw():
    """Return the diagram."""
    parts = [line for i, member in enumerate(MEMBERS) for line in panel(i, *member)]
    style = ("text{font:13px sans-serif;text-anchor:middle;fill:#222}.title{font-weight:bold;font-size:15px}"
             ".small{font-size:12px;fill:#555}.cell{stroke:#fff;stroke-width:1}")
    note = ("Columns are channels; rows are samples, each with three positions. "
            "Values of one colour that touch share a statistic; one statistic is orange.")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        "<title>Which values share a statistic</title>", f"<style>{style}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts,
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 16}">{escape(note)}</text>', "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
