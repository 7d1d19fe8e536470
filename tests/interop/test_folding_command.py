"""The command python -m fastbn fold on networks exported by PyTorch and on the models in the onnx package."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")
onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed: no onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed: no onnxruntime")

from fastbn.__main__ import main  # noqa: E402
from fastbn.folding.onnx_graph import convert  # noqa: E402
from tests.interop.networks import NETWORKS, batch, export, trained  # noqa: E402
from tests.interop.onnx_graphs import graph, operators, same  # noqa: E402
from tests.process import run  # noqa: E402

BN = "BatchNormalization"
ONNX_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
# Batch norms folded, all batch norms, constants folded. In densenet a Mul, an Add and a ReLU follow each batch norm.
LIGHT = {"shufflenet": (49, 49, 0), "densenet121": (59, 121, 242)}
FOLDABLE = f"h = Conv(x, w, b) y = {BN}(h, s, t, m, v)"


def fold(*arguments):
    """Run the command in a new process."""
    return run("-m", "fastbn", "fold", *map(str, arguments))


def saved(model, path):
    onnx.save(model, path)
    return path


def only(folder, *names):
    """Return whether a folder has exactly these files, and no temporary ones."""
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks(name, opset, tmp_path):
    *_, folded, total = NETWORKS[name]
    network = trained(name)
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    export(network, batch(name, 2, 0), source, opset)
    before = source.read_bytes()
    assert operators(onnx.load(source)).count(BN) == total
    done = fold(source, target, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    targets = [norm["target"] for norm in report["batch_norms"]]
    assert (len(targets) - targets.count(None), len(targets)) == (folded, total)
    assert 0 < report["agreement"]["relative"] < 1e-5
    assert not report["agreement"]["constant"]
    model = onnx.load(target)
    assert operators(model).count(BN) == total - folded
    assert report["nodes"] == {"before": len(onnx.load(source).graph.node), "after": len(model.graph.node)}
    assert report["nodes"]["after"] <= report["nodes"]["before"] - folded
    assert source.read_bytes() == before
    assert only(tmp_path, "model.onnx", "folded.onnx")
    # Compare with PyTorch.
    x = batch(name, 5, 7)
    [y] = onnxruntime.InferenceSession(target).run(None, {"x": x.numpy()})
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def with_random_parameters(model):
    """Replace the constant parameters of a model in the onnx package, so that its outputs depend on the input."""
    rng = np.random.default_rng(0)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = {node.input[1] for node in model.graph.node if node.op_type == BN}
    scales |= {node.input[4] for node in model.graph.node if node.op_type == BN}
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if node.op_type == "ConstantOfShape":
            shape = tuple(tensors[node.input[0]])
            if node.output[0] in scales:
                value = rng.uniform(0.5, 1.5, shape)
            else:
                value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]) if len(shape) > 1 else 0.1)
            tensor = onnx.numpy_helper.from_array(value.astype(np.float32), node.output[0])
            model.graph.initializer.append(tensor)
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del model.graph.node[index]
    return model


@pytest.mark.parametrize("name", LIGHT)
def test_models_of_onnx(name, tmp_path):
    model = with_random_parameters(onnx.load(ONNX_DATA / "light" / f"light_{name}.onnx"))
    target = tmp_path / "folded.onnx"
    done = fold(saved(model, tmp_path / "model.onnx"), target)
    assert done.returncode == 0, done.stderr
    folded, total, constants = LIGHT[name]
    lines = done.stdout.splitlines()
    assert sum(line.startswith(BN) and ": folded into Conv 'n" in line for line in lines) == folded
    assert sum(": left, because " in line for line in lines) == total - folded
    assert sum(line.startswith(("Mul ", "Add ")) and ": folded into " in line for line in lines) == constants
    more = f" and {constants} operations with constants" if constants else ""
    assert f"{folded} of {total} batch normalizations{more} folded; " in done.stdout
    assert operators(onnx.load(target)).count(BN) == total - folded


def test_constant_models_of_onnx_are_called_so(tmp_path):
    done = fold(ONNX_DATA / "light" / "light_shufflenet.onnx", tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    assert "(outputs do not depend on the inputs, so this says little)" in done.stdout
    assert BN not in operators(onnx.load(tmp_path / "folded.onnx"))


@pytest.mark.parametrize("name", ["BatchNorm1d_3d_input_eval", "BatchNorm2d_eval", "BatchNorm3d_momentum_eval"])
def test_batch_norms_of_onnx(name, tmp_path):
    # The model has opset 6, which ONNX Runtime does not support.
    path = ONNX_DATA / "pytorch-converted" / f"test_{name}" / "model.onnx"
    done = fold(path, tmp_path / "folded.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("nothing was written: ONNX Runtime cannot load model.onnx: ")
    model = onnx.load(path)
    [outcome] = convert.fold_batch_norms(model)
    assert outcome.reason == "the model has opset 6; expected 7 or newer"


def test_what_it_prints(tmp_path):
    model = graph(f"h = Conv(x, w) i = {BN}(h, s, t, m, v) r = Relu(i) y = {BN}(r, sother, t, m, v)")
    done = fold(saved(model, tmp_path / "model.onnx"), tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{BN} 'i': folded into Conv 'h', certificate ")
    assert 1e-9 < float(lines[0].rpartition(" ")[2]) < 1e-6
    assert lines[1] == f"{BN} 'y': left, because its input comes from Relu 'r'; its output is an output of the graph"
    assert lines[2] == "1 of 2 batch normalizations folded; 4 nodes before, 3 after"
    assert lines[3].startswith("largest difference of the outputs on 2 random inputs: ")
    assert lines[4:] == [f"written: {tmp_path / 'folded.onnx'}"]
    same(onnx.load(tmp_path / "folded.onnx"), model,
         {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)})


def test_constants_alone(tmp_path):
    model = graph("h = Conv(x, w) a = Mul(h, column) y = Add(a, other)")
    done = fold(saved(model, tmp_path / "model.onnx"), tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(", ")[0] for line in lines[:2]] == ["Mul 'a': folded into Conv 'h'",
                                                              "Add 'y': folded into Conv 'h'"]
    assert lines[2] == ("0 of 0 batch normalizations and 2 operations with constants folded; 3 nodes before, 1 after")
    done = fold(tmp_path / "model.onnx", tmp_path / "other.onnx", "--json")
    report = json.loads(done.stdout)
    assert report["batch_norms"] == []
    assert [constant["target"] for constant in report["constants"]] == ["Conv 'h'"] * 2


@pytest.mark.parametrize(("body", "count"), [("y = Relu(x)", 0), (f"h = Relu(x) y = {BN}(h, s3, t3, m3, v3)", 1)])
def test_nothing_to_fold(body, count, tmp_path):
    model = graph(body)
    done = fold(saved(model, tmp_path / "model.onnx"), tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    assert f"nothing to fold: 0 of {count} batch normalizations folded" in done.stdout
    assert onnx.load(tmp_path / "folded.onnx") == model


def test_in_place(tmp_path):
    path = saved(graph(FOLDABLE), tmp_path / "model.onnx")
    before = path.read_bytes()
    done = fold(path, path)
    assert done.returncode == 1
    assert done.stderr == f"nothing was written: {path} exists already; --force replaces it\n"
    assert path.read_bytes() == before
    assert fold(path, path, "--force").returncode == 0
    assert operators(onnx.load(path)) == ["Conv"]
    assert only(tmp_path, "model.onnx")


def test_external_data(tmp_path):
    model = graph(FOLDABLE)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    done = fold(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    assert only(tmp_path, "model.onnx", "weights.bin", "folded.onnx")
    (tmp_path / "weights.bin").unlink()
    assert operators(onnx.load(tmp_path / "folded.onnx")) == ["Conv"]
    done = fold(tmp_path / "model.onnx", tmp_path / "other.onnx")
    assert done.returncode == 1
    assert "weights.bin" in done.stderr


def test_input_shapes(tmp_path):
    # A matrix of 48 rows requires images of 6 x 8 pixels, and neither length is tried.
    body = f"h = Conv(x, w1) i = {BN}(h, s, t, m, v) f = Flatten<axis=2>(i) y = MatMul(f, far)"
    model = graph(body, "[N, 3, H, W]")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((48, 2), np.float32), "far"))
    path = saved(model, tmp_path / "model.onnx")
    done = fold(path, tmp_path / "folded.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("nothing was written: ONNX Runtime cannot run the model: ")
    assert done.stderr.endswith("(on random inputs; set their shapes with --input-shape)\n")
    assert fold(path, tmp_path / "folded.onnx", "--input-shape", "x=1,3,6,8").returncode == 0
    done = fold(path, tmp_path / "other.onnx", "--input-shape", "z=1,3,6,8")
    assert done.stderr == "nothing was written: the model has no input 'z'; it has 'x'\n"


def test_open_lengths(tmp_path):
    # A window of 100 pixels does not fit into 32 or 64.
    model = graph(f"p = AveragePool<kernel_shape=[100,100]>(x) h = Conv(p, w1) y = {BN}(h, s, t, m, v)", "[N, 3, H, W]")
    done = fold(saved(model, tmp_path / "model.onnx"), tmp_path / "folded.onnx")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 batch normalizations folded" in done.stdout


NOT_RUN = {
    "text": ('<ir_version: 8, opset_import: ["" : 17]> g (string[2] x) => (string[2] y) { y = Identity(x) }',
             "input 'x' is a tensor(string), for which there are no random values"),
    "not finite": ('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) '
                   '{ a = Abs(x) n = Neg(a) y = Log(n) }', "no output of the model is a finite number on random"),
    "unknown operator": ('<ir_version: 8, opset_import: ["" : 17, "other" : 1]> g (float[2] x) => (float[2] y) '
                         '{ y = other.Unknown(x) }', "ONNX Runtime cannot load model.onnx: "),
}


@pytest.mark.parametrize("name", NOT_RUN)
def test_models_that_cannot_be_compared(name, tmp_path):
    text, message = NOT_RUN[name]
    done = fold(saved(onnx.parser.parse_model(text), tmp_path / "model.onnx"), tmp_path / "folded.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith(f"nothing was written: {message}")
    assert done.stderr.count("\n") == 1
    assert only(tmp_path, "model.onnx")


BAD_FILES = {
    "missing": (None, "No such file or directory"),
    "empty": (b"", "is not an ONNX model: it has no graph"),
    "text": (b"no model at all", "is not an ONNX model"),
    "invalid": (graph("y = Relu(x)").SerializeToString().replace(b"Relu", b"Rulu"), "is not a valid ONNX model: "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name, tmp_path):
    data, message = BAD_FILES[name]
    if data is not None:
        (tmp_path / "model.onnx").write_bytes(data)
    done = fold(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("nothing was written: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "folded.onnx").exists()


def test_it_finds_out_first_that_it_cannot_write(tmp_path, monkeypatch, capsys):
    def refuse(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = saved(graph(FOLDABLE), tmp_path / "model.onnx")
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(convert, "read", lambda path: pytest.fail("the model was read"))
    assert main(["fold", str(path), str(tmp_path / "folded.onnx")]) == 1
    reason = f"{tmp_path / 'folded.onnx'}: cannot be written: Read-only file system"
    assert capsys.readouterr() == ("", f"nothing was written: {reason}\n")


def test_no_directory(tmp_path):
    done = fold(saved(graph(FOLDABLE), tmp_path / "model.onnx"), tmp_path / "nowhere" / "folded.onnx")
    assert done.returncode == 1
    assert done.stderr == f"nothing was written: there is no directory {tmp_path / 'nowhere'}\n"


# Wrong folds are detected.


def corrupt(model):
    """Fold with an error of a thousandth."""
    outcomes = fold_batch_norms(model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w_folded")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.001), "w_folded"))
    return outcomes


def disconnect(model):
    """Fold and remove the inputs of a node."""
    outcomes = fold_batch_norms(model)
    del model.graph.initializer[:]
    return outcomes


fold_batch_norms = convert.fold_batch_norms


@pytest.mark.parametrize(("defect", "message"), [
    (corrupt, r"output 'y' of the folded model differs by .*, .* of its largest value; the tolerance is 0.0001\n"),
    (disconnect, "the folded model is not valid, so it was not written: "),
])
def test_a_wrong_fold_is_not_written(defect, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "fold_batch_norms", defect)
    path = saved(graph(FOLDABLE), tmp_path / "model.onnx")
    assert main(["fold", str(path), str(tmp_path / "folded.onnx")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nothing was written: ")
    assert re.search(message, captured.err)
    assert only(tmp_path, "model.onnx")


def test_tolerance(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "fold_batch_norms", corrupt)
    path = saved(graph(FOLDABLE), tmp_path / "model.onnx")
    assert main(["fold", str(path), str(tmp_path / "folded.onnx"), "--tolerance", "1e-2"]) == 0
    assert only(tmp_path, "model.onnx", "folded.onnx")


def test_too_large_for_one_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "MOST_BYTES", 100)
    path = saved(graph(FOLDABLE), tmp_path / "model.onnx")
    assert main(["fold", str(path), str(tmp_path / "folded.onnx")]) == 1
    assert capsys.readouterr().err.endswith("is larger than 2 GiB, which does not fit in one file\n")
    assert only(tmp_path, "model.onnx")


def test_models_of_training_are_refused(tmp_path):
    model = graph(FOLDABLE)
    model.training_info.add()
    done = fold(saved(model, tmp_path / "model.onnx"), tmp_path / "folded.onnx")
    assert done.returncode == 1
    assert done.stderr.endswith("describes training, which uses parameters that a fold changes\n")


@pytest.mark.parametrize("name", [b"\x04Conv", b"BatchNormalization", b"\n\x01h", b"\n\x01x"],
                         ids=["operator", "batch norm", "tensor", "input"])
def test_names_that_are_not_utf8(name, tmp_path, capsys):
    data = graph(FOLDABLE).SerializeToString()
    assert name in data
    (tmp_path / "model.onnx").write_bytes(data.replace(name, name[:-1] + b"\xff"))
    assert main(["fold", str(tmp_path / "model.onnx"), str(tmp_path / "folded.onnx")]) == 1
    assert capsys.readouterr() == (
        "", f"nothing was written: {tmp_path / 'model.onnx'} has a name that is not UTF-8: invalid start byte\n")
    assert only(tmp_path, "model.onnx")
