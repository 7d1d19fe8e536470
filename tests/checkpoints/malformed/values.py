"""Values, names and settings that must be refused in files of both formats."""

import numpy as np

from tests.checkpoints.files import COUNTER, VECTORS, state


def bad_values():
    """Yield invalid states: name, arrays, names stored as bfloat16, pattern for the message."""
    for kind in ("float64", "float32", "float16", "bfloat16"):
        bf16 = VECTORS if kind == "bfloat16" else ()
        dtype = "float32" if bf16 else kind
        for name in VECTORS:
            for text in ("nan", "inf", "-inf"):
                arrays = state(dtype)
                arrays[name][3] = float(text)
                yield f"{kind} {name} {text}", arrays, bf16, f"{name} has values that are not finite"
        arrays = state(dtype)
        arrays["running_var"][4] = -0.25
        yield f"{kind} variance negative", arrays, bf16, "running_var has negative values, down to -0.25"
    for name in ("running_mean", "running_var"):
        without = {k: v for k, v in state().items() if k != name}
        yield f"{name} missing", without, (), f"state is missing {name}; expected"
    for name in VECTORS:
        for case, value, message in (
            ("shorter", np.ones(4, np.float32), r"has shape \([45],\); expected \([45],\)"),
            ("2-d", np.ones((5, 1), np.float32), rf"{name} has shape \(5, 1\); expected"),
            ("0-d", np.float32(1), rf"{name} has shape \(\); expected"),
            ("int64", np.ones(5, np.int64), f"{name} has dtype int64; expected a floating-point type"),
            ("int32", np.ones(5, np.int32), f"{name} has dtype int32; expected a floating-point type"),
            ("uint8", np.ones(5, np.uint8), f"'{name}' has dtype .*; expected one of"),
            ("bool", np.ones(5, bool), f"'{name}' has dtype .*; expected one of"),
            ("complex", np.ones(5, np.complex64), f"'{name}' has dtype .*; expected one of"),
        ):
            yield f"{name} {case}", state() | {name: value}, (), message
    yield "all of no channels", {n: np.ones(0, np.float32) for n in VECTORS}, (), r"weight has shape \(0,\); expected"
    yield "counter alone", {COUNTER: np.array(3)}, (), "state is missing weight, bias, running_mean, running_var"
    yield "unknown name", state() | {"scale": np.ones(5, np.float32)}, (), "state also has 'scale'; expected"
    yield "upper case", {n.upper(): v for n, v in state().items()}, (), "state is missing .* also has 'BIAS'"
    yield ("other layer", {f"layer2.{n}": v for n, v in state().items()}, (),
           "state is missing .* also has 'layer2.bias'")
    for name, value, message in (
        ("negative", np.array(-1), "must be an integer from 0"),
        ("fraction", np.array(1.5), "must be an integer from 0"),
        ("nan", np.array(np.nan), "must be an integer from 0"),
        ("inf", np.array(np.inf), "must be an integer from 0"),
        ("float of 2**63", np.array(2.0**63), "must be an integer from 0"),
        ("bool", np.array(True), "has dtype .*; expected one of"),
        ("two", np.array([1, 1]), r"has shape \(2,\); expected \(\)"),
        ("none", np.array([], np.int64), r"has shape \(0,\); expected \(\)"),
        ("1 by 1", np.array([[1]]), r"has shape \(1, 1\); expected \(\)"),
    ):
        yield f"counter {name}", state() | {COUNTER: value}, (), f"{COUNTER}'? {message}"


BAD_SETTINGS = {
    "axis": ("", "1.5", "one", "1234567890", "+1", "1e0", "None"),
    "eps": ("", "-1e-05", "nan", "inf", "1e-50", "1e999", "1_0", "0x1p-3", "None", "1e-05 "),
    "momentum": ("", "2.0", "-0.1", "nan", "none", "1e999", "0,1"),
    "unbiased": ("", "true", "1", "None"),
    "averaging": ("", "cumulative", "EMA"),
    "debias": ("", "true", "None"),
    "nan_policy": ("", "ignore", "raise "),
    "kind": ("", "Unknown", "batchnorm", "os.system", "BatchNorm ", "1", "object", "x" * 5000),
}
