"""Errors of the command python -m fastbn fold: one line with the reason, and nothing is written."""

import os

import pytest

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed: no onnx")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed: no onnxruntime")

from fastbn.__main__ import main  # noqa: E402
from tests.interop.onnx_graphs import graph  # noqa: E402

FOLDABLE = "h = Conv(x, w, b) y = BatchNormalization(h, s, t, m, v)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a working directory with a model that can be folded."""
    monkeypatch.chdir(tmp_path)
    onnx.save(graph(FOLDABLE), "model.onnx")
    return tmp_path


@pytest.fixture
def refused(folder, capfd):
    """Run the command, which must fail with one line and change no file; return the line."""
    def run(*arguments):
        before = sorted(os.listdir(folder))
        assert main(["fold", *arguments]) == 1
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
        assert sorted(os.listdir(folder)) == before
        return captured.err.removeprefix("nothing was written: ").strip()
    return run


@pytest.mark.parametrize(("model", "message"), [
    ("missing.onnx", "missing.onnx cannot be read: No such file or directory"),
    ("", ". cannot be read: Is a directory"),
    ("two\nlines.onnx", "two lines.onnx cannot be read: No such file or directory"),
])
def test_models_that_cannot_be_read(model, message, refused):
    assert refused(model, "folded.onnx") == message


@pytest.mark.parametrize(("output", "message"), [
    ("model.onnx", "model.onnx exists already; --force replaces it"),
    ("", ". is not a file that could be replaced"),
    ("model.onnx/folded.onnx", "there is no directory model.onnx"),
    (f"{'a' * 300}.onnx", f"{'a' * 300}.onnx cannot be written: File name too long"),
], ids=["exists", "folder", "in a file", "long name"])
def test_outputs_that_cannot_be_written(output, message, refused):
    assert refused("model.onnx", output) == message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_files_are_replaced(refused, folder):
    # As root, a rename over /dev/null would destroy it for the whole system.
    os.mkfifo("pipe")
    assert refused("model.onnx", "pipe", "--force") == "pipe is not a file that could be replaced"
    assert (folder / "pipe").is_fifo()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(refused):
    os.mkfifo("pipe.onnx")      # without a writer
    assert refused("pipe.onnx", "folded.onnx") == "pipe.onnx: is a named pipe; expected a regular file"


@pytest.mark.parametrize(("shapes", "message"), [
    (["x=2"], "input 'x' has shape (N, 3, 8, 8) in the model; (2,) does not fit"),
    (["x=2,3,8,9"], "input 'x' has shape (N, 3, 8, 8) in the model; (2, 3, 8, 9) does not fit"),
    (["z=2,3,8,8"], "the model has no input 'z'; it has 'x'"),
    (["x=1,3,8,8", "x=2,3,8,8"], "--input-shape gives an input two shapes"),
    (["x=99999999999999,3,8,8"], "input 'x' of shape (99999999999999, 3, 8, 8) does not fit in memory"),
    (["x=9999999999999999999,3,8,8"], "input 'x' of shape (9999999999999999999, 3, 8, 8) does not fit in memory"),
])
def test_shapes_that_do_not_fit(shapes, message, refused):
    options = [word for shape in shapes for word in ("--input-shape", shape)]
    assert refused("model.onnx", "folded.onnx", *options) == message


def changed(**attributes):
    """Return the model with other fields in its initializer `w`."""
    model = graph(FOLDABLE)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    for name, value in attributes.items():
        setattr(tensor, name, value)
    return model


def text(body):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {body}')


MODELS = {
    "unknown operator": (lambda: text("(float[2] x) => (float[2] y) { y = Rulu(x) }"),
                         "is not a valid ONNX model: No Op registered for Rulu with domain_version of 17 ==> "),
    "unknown dtype": (lambda: changed(data_type=99),
                      "ONNX Runtime cannot load bad.onnx: This is an invalid model. Tensor 'w' does not have valid"),
    "short data": (lambda: changed(raw_data=b"1234"), "bad.onnx is not a valid ONNX model: TensorProto"),
    "no outputs": (lambda: text("(float[2] x) => () { y = Relu(x) }"),
                   "the model has no outputs: there is nothing to compare"),
    "huge": (lambda: text("(float[1000000, 1000000] x) => (float[1000000, 1000000] y) { y = Relu(x) }"),
             "input 'x' of shape (1000000, 1000000) does not fit in memory"),
    "sequence": (lambda: text("(seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }"),
                 "input 'x' is a seq(tensor(float)), for which there are no random values"),
    "new opset": (lambda: graph(FOLDABLE, opset=99), "ONNX Runtime cannot load bad.onnx: ONNX Runtime only"),
    "channels": (lambda: graph(FOLDABLE, "[N, 5, 8, 8]"), "ONNX Runtime cannot run the model: Non-zero status code"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_wrong(name, refused, folder):
    make, message = MODELS[name]
    (folder / "bad.onnx").write_bytes(make().SerializeToString())
    found = refused("bad.onnx", "folded.onnx")
    assert message in found
    assert "onnxruntime_src" not in found


@pytest.mark.parametrize(("key", "value", "message"), [
    ("length", "1000000", "the external data of external.onnx cannot be read: "),
    ("offset", "many", "the external data of external.onnx cannot be read: "),
    ("location", "../weights.bin", "external.onnx is not a valid ONNX model: "),
    ("location", "nowhere.bin", "external.onnx is not a valid ONNX model: "),
])
def test_external_data_that_is_wrong(key, value, message, refused):
    onnx.save(graph(FOLDABLE), "external.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load("external.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        entry = next((entry for entry in tensor.external_data if entry.key == key), None)
        (entry or tensor.external_data.add(key=key)).value = value
    with open("external.onnx", "wb") as file:
        file.write(model.SerializeToString())
    assert refused("external.onnx", "folded.onnx").startswith(message)


def test_not_enough_memory(refused, monkeypatch):
    def convert(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("fastbn.folding.onnx_graph.convert.convert", convert)
    assert refused("model.onnx", "folded.onnx") == "there is not enough memory for the model"


def test_a_model_that_can_be_folded_is(folder):
    assert main(["fold", "model.onnx", "folded.onnx", "--input-shape", "x=2,3,8,8"]) == 0
    assert sorted(os.listdir(folder)) == ["folded.onnx", "model.onnx"]


@pytest.mark.skipif(os.name != "posix", reason="modes and links are a matter of POSIX")
def test_a_link_by_a_name_that_could_be_foreseen_is_not_followed(folder):
    (folder / "victim").write_bytes(b"precious")
    (folder / f".folded.onnx.{os.getpid()}").symlink_to("victim")
    assert main(["fold", "model.onnx", "folded.onnx"]) == 0
    assert (folder / "victim").read_bytes() == b"precious"
    assert not (folder / "folded.onnx").is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="modes and links are a matter of POSIX")
def test_force_keeps_mode_and_link(folder):
    (folder / "private.onnx").write_bytes(b"old")
    (folder / "private.onnx").chmod(0o600)
    (folder / "link.onnx").symlink_to("private.onnx")
    assert main(["fold", "model.onnx", "link.onnx", "--force"]) == 0
    assert (folder / "link.onnx").is_symlink()
    assert (folder / "private.onnx").stat().st_mode & 0o777 == 0o600
    assert [node.op_type for node in onnx.load("private.onnx").graph.node] == ["Conv"]


@pytest.mark.parametrize("length", [238, 255])
def test_long_names(length, folder):
    name = "n" * (length - 5) + ".onnx"
    assert main(["fold", "model.onnx", name]) == 0
    assert sorted(os.listdir(folder)) == sorted(["model.onnx", name])
