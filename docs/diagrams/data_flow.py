"""Draw docs/diagrams/data_flow.svg: ``python docs/diagrams/data_flow.py``."""

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 960, 590
COLUMNS, BOX = (30, 350, 670), 260
PYTHON, COMPILED, RESULT = "#dbe7f6", "#fbe3cd", "#eeeeee"


def box(column, y, title, *lines, fill):
    """Return a box with a title and two lines of text, as SVG."""
    x = COLUMNS[column]
    middle = x + BOX / 2
    return [f'<rect x="{x}" y="{y}" width="{BOX}" height="76" rx="6" fill="{fill}" stroke="#555"/>',
            f'<text x="{middle}" y="{y + 24}" class="title">{escape(title)}</text>',
            *(f'<text x="{middle}" y="{y + 45 + 19 * i}">{escape(line)}</text>' for i, line in enumerate(lines))]


def across(start, end, y):
    """Return an arrow from a column to its neighbour, as SVG."""
    ends = (COLUMNS[start] + BOX, COLUMNS[end]) if start < end else (COLUMNS[start], COLUMNS[end] + BOX)
    return [f'<line x1="{ends[0]}" y1="{y + 38}" x2="{ends[1]}" y2="{y + 38}" class="arrow"/>']


def down(column, y, end):
    """Return an arrow from a box at y to another one below it, as SVG."""
    x = COLUMNS[column] + BOX / 2
    return [f'<line x1="{x}" y1="{y + 76}" x2="{x}" y2="{end}" class="arrow"/>']


def frame(y, text):
    """Return the frame around a row of boxes, with a title, as SVG."""
    return [f'<rect x="10" y="{y - 38}" width="{WIDTH - 20}" height="128" rx="8" class="frame"/>',
            f'<text x="{WIDTH / 2}" y="{y - 15}" class="row">{escape(text)}</text>']


def draw():
    """Return the diagram."""
    first, second, third, last = 50, 200, 350, 500
    parts = [
        *frame(first, "Which values count, and where their sums come from"),
        *box(0, first, "y = bn(x)", "mode, masks, arguments", "layers/batchnorm.py", fill=PYTHON),
        *box(1, first, "source of batch sums", "array, micro-batches, ranks", "layers/source.py", fill=PYTHON),
        *box(2, first, "array view", "planes (N, C, S) or rows (R, C)", "_core/views.pyx", fill=COMPILED),
        *across(0, 1, first), *across(1, 2, first), *down(2, first, second),
        *frame(second, "Settled before any loop runs"),
        *box(2, second, "geometry", "statistics and parameters", "kernels/common", fill=COMPILED),
        *box(1, second, "schedule", "units from shape and dtype", "kernels/schedule", fill=COMPILED),
        *box(0, second, "team", "hands units to threads", "kernels/schedule", fill=COMPILED),
        *across(2, 1, second), *across(1, 0, second), *down(0, second, third),
        *frame(third, "Block by block, while a block is in the cache"),
        *box(0, third, "reduce", "x to n, mean, M2", "kernels/reduce", fill=COMPILED),
        *box(1, third, "coefficients", "m, alpha, beta', in double", "kernels/common", fill=COMPILED),
        *box(2, third, "apply", "transform, residual, ReLU, store", "kernels/apply", fill=COMPILED),
        *across(0, 1, third), *across(1, 2, third), *down(1, third, last), *down(2, third, last),
        *box(2, last, "y", "written once", "in the dtype of x", fill=RESULT),
        *box(1, last, "saved", "mean, var, rstd, for backward", "_core/saved.py", fill=RESULT),
        *box(0, last, "running statistics", "updated last", "layers/running.py", fill=PYTHON),
        *across(1, 0, last),
    ]
    style = ("text{font:14px sans-serif;text-anchor:middle;fill:#222}.title{font-weight:bold;font-size:15px}"
             ".row{fill:#555;font-style:italic}.frame{fill:none;stroke:#aaa;stroke-dasharray:5 4}"
             ".arrow{stroke:#333;stroke-width:1.5;marker-end:url(#head)}")
    head = ('<marker id="head" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto">'
            '<path d="M0,0 L9,4 L0,8 z"/></marker>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        "<title>The data flow of a training forward</title>",
        f"<style>{style}</style><defs>{head}</defs>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *parts, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
