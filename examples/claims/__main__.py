"""``python -m examples.claims [NAME ...]``: measure claims, and draw them.

``python -m examples.claims --page`` writes docs/claims.md from the numbers in docs/claims.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.claims import (
    batch_noise,
    batch_size,
    covariate_shift,
    dependent_batches,
    family,
    faster_training,
    gradient_flow,
    identity,
    ignored_gradient,
    inference,
    initialization,
    redundant_bias,
    weight_scale,
    whitening_cost,
)
from examples.claims.claim import RESULTS, SHORT, Claim, Plan, add_arguments, run

if TYPE_CHECKING:
    from collections.abc import Mapping

# In the order of the page.
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in (
    faster_training, initialization, weight_scale, redundant_bias, identity, ignored_gradient, whitening_cost,
    batch_noise, batch_size, inference, dependent_batches, covariate_shift, gradient_flow, family)}
TEMPLATE = Path(__file__).with_name("page.md")
WIDTH = 120


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page, given the numbers of all claims."""
    found: dict[str, Any] = {name: claim.values(results[name]) for name, claim in CLAIMS.items()}
    seeds = min(numbers["run"]["seeds"] for numbers in results.values())
    text = TEMPLATE.read_text().format(seeds=seeds, **found)
    return "\n\n".join(map(wrapped, text.split("\n\n")))


def wrapped(block: str) -> str:
    """Return a paragraph in lines of the usual width; other blocks as they are."""
    if block.startswith(("#", "|", "!", "<!--")):
        return block
    items = re.split(r"\n(?=- )", block.strip("\n"))
    lines = [textwrap.fill(" ".join(item.split()), WIDTH, subsequent_indent="  " if item.startswith("- ") else "",
                           break_long_words=False, break_on_hyphens=False) for item in items]
    return "\n".join(lines) + ("\n" if block.endswith("\n") else "")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the numbers of all claims in a folder."""
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in CLAIMS}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m examples.claims", description="Measure claims, and draw them.")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"claims to measure: {', '.join(CLAIMS)} (default: all)")
    parser.add_argument("--page", action="store_true",
                        help="measure nothing, but write docs/claims.md from the numbers in docs/claims")
    add_arguments(parser)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in CLAIMS]
    if unknown:
        parser.error(f"there is no claim {unknown[0]!r}; expected {', '.join(CLAIMS)}")
    if arguments.page:
        if arguments.names:
            parser.error(f"--page measures nothing; expected no names, got {arguments.names[0]}")
        path = RESULTS.with_suffix(".md")
        path.write_text(page(read(RESULTS)))
        sys.stdout.write(f"{path}\n")
        return 0
    for name in arguments.names or CLAIMS:
        numbers = run(CLAIMS[name], SHORT if arguments.short else Plan(), arguments.out)
        sys.stdout.write(f"{arguments.out / name}.png, {numbers['run']['seconds']:g} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
