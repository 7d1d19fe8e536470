"""What is measured on what.

- bn, bn_relu, bn_residual_relu: inference in float32, into a buffer that is there already where the library has a way
- bn_float16, bn_bfloat16: the same in halves; training_float32, training_float16, training_bfloat16: training
- images: uint8 NHWC to float32 NCHW, normalized by mean and standard deviation of each colour
- call: one small inference, where only the cost of the call counts
"""

from __future__ import annotations

from benchmarks.cases import Case
from benchmarks.compare.peers import CALL_CASE
from tests.cases import LAYOUTS

INFERENCE = ("bn", "bn_relu", "bn_residual_relu")
HALVES = ("bn_float16", "bn_bfloat16", "training_float32", "training_float16", "training_bfloat16")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def both(*shapes: tuple[int, ...]) -> list[Case]:
    """Return each shape in each layout it has."""
    return [Case(shape, layout) for shape in shapes for layout in LAYOUTS if len(shape) > 2 or layout == "rows"]


SERVICE_CASES = both((1, 64, 56, 56), (1, 256, 14, 14), (1, 2048, 7, 7), (8, 64, 28, 28), (8, 256, 28, 28),
                     (32, 64, 112, 112), (32, 256, 56, 56), (64, 512), (4096, 256))
COMPILED = both((1, 64, 56, 56), (8, 64, 28, 28), (32, 64, 112, 112), (2, 8, 7, 7))
HALF_CASES = both((1, 64, 56, 56), (8, 256, 28, 28), (32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28))
IMAGE_CASES = [Case(shape, "rows") for shape in (
    (1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224), (1, 3, 1080, 1920))]


def plan(tiny: bool = False) -> dict[str, list[Case]]:
    """Return the cases of each operation."""
    service, half, image = ((both((2, 8, 7, 7), (8, 24)), both((2, 8, 7, 7)), [Case((2, 3, 16, 16), "rows")]) if tiny
                            else (SERVICE_CASES, HALF_CASES, IMAGE_CASES))
    return (dict.fromkeys(INFERENCE, service) | dict.fromkeys(HALVES, half)
            | {"images": image, "call": [CALL_CASE]})
