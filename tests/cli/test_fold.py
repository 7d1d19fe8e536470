"""The errors of fastbn fold for wrong arguments and missing packages."""

import importlib.util

import pytest

from tests.process import run


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "the following arguments are required: MODEL, OUTPUT"),
    (["a.onnx"], "the following arguments are required: OUTPUT"),
    (["a.onnx", "b.onnx", "--tolerance", "0"], "argument --tolerance: expected a number above 0, got '0'"),
    (["a.onnx", "b.onnx", "--input-shape", "x"], "argument --input-shape: expected NAME=N,C,... with integers"),
    (["a.onnx", "b.onnx", "--input-shape", "x=1,0"], "argument --input-shape: expected NAME=N,C,... with integers"),
    (["a.onnx", "b.onnx", "--input-shape", "=1"], "argument --input-shape: expected NAME=N,C,... with integers"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_usage(arguments, message):
    done = run("-m", "fastbn", "fold", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra(package):
    code = f"import sys; sys.modules[{package!r}] = None; from fastbn.__main__ import main; sys.exit(main({{}}))"
    done = run("-c", code.format(["fold", "a.onnx", "b.onnx"]))
    assert done.returncode == 1
    missing = {package} | {name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None}
    assert done.stderr in {f'Folding ONNX models needs {name}, which is not installed: pip install ".[onnx]"\n'
                           for name in missing}


def test_folding_needs_numpy_alone():
    code = ("import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None; import fastbn; "
            "print(fastbn.fold_linear([[2.0]], None, fastbn.BatchNorm(1, eps=3.0)).weight)")
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[1.]]\n"
