"""examples/service: both servers with valid and invalid HTTP requests, and their parts."""

import io
import os
import signal
import struct
import zlib

import numpy as np
import pytest

from tests.compare import same_bits
from tests.process import output, run

MODULES = ("PIL", "falcon", "gunicorn", "prometheus_client", "psutil", "sklearn", "threadpoolctl", "uvicorn_worker")
for module in MODULES:
    pytest.importorskip(module, reason=f"the service extra is not installed: no {module}")

from PIL import Image  # noqa: E402

from examples.service import training  # noqa: E402
from examples.service.__main__ import main  # noqa: E402
from examples.service.client import count_wrong, running, wrong_answers  # noqa: E402
from examples.service.images import MOST_BYTES, MOST_IMAGES, PNG, RAW  # noqa: E402
from examples.service.load_test import wrk  # noqa: E402
from examples.service.model import Classifier  # noqa: E402
from examples.service.parameters import restore, save  # noqa: E402

ROUTES = {"/predict": False, "/predict/folded": True}


@pytest.fixture(scope="module")
def trained():
    return training.train()


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "fastbn" / "digits.npz"
    save(path, trained[0])
    return path


@pytest.fixture(scope="module")
def classifier(model):
    return Classifier(restore(model))


@pytest.fixture(scope="module")
def images():
    return training.test_pixels()


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def service(request, model, tmp_path_factory):
    # With two threads, a full batch uses OpenMP in a worker whose parent used OpenMP before the fork.
    with running(request.param, model, tmp_path_factory.mktemp("log") / "log", workers=2, threads=2) as service:
        yield service


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb():
    """A small PNG that claims a size of 60000x60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1:]


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
BAD = {
    "nothing": ("POST", "/predict", RAW, b"", 400, "expected 64 bytes for each image, 8 rows of 8; got 0 bytes"),
    "a byte short": ("POST", "/predict", RAW, bytes(63), 400, "expected 64 bytes for each image"),
    "a byte over": ("POST", "/predict/folded", RAW, bytes(129), 400, "got 129 bytes"),
    "too many images": ("POST", "/predict", RAW, bytes(MOST_BYTES + 64), 413, "at most 32768 bytes, got 32832"),
    "no length": ("POST", "/predict", RAW, iter([bytes(64)]), 411, "Content-Length is required"),
    "no type": ("POST", "/predict", None, bytes(64), 415, "image/png or application/octet-stream, got none"),
    "another type": ("POST", "/predict", "image/jpeg", bytes(64), 415, "got image/jpeg"),
    "no png": ("POST", "/predict", PNG, bytes(64), 400, "expected a PNG; got 64 bytes of another format"),
    "an empty png": ("POST", "/predict", PNG, b"", 400, "expected a PNG; got 0 bytes of another format"),
    "half a png": ("POST", "/predict", PNG, png(GREY)[:60], 400, "the PNG cannot be decoded"),
    "a png without its end": ("POST", "/predict", PNG, png(GREY)[:-12], 400, "the PNG cannot be decoded"),
    "a png with a wrong bit": ("POST", "/predict", PNG, flipped(png(GREY), -14), 400, "the PNG cannot be decoded"),
    "a large png": ("POST", "/predict", PNG, png(np.zeros((28, 28), np.uint8)), 400, "got 28x28 pixels in mode L"),
    "a colour png": ("POST", "/predict", PNG, png(np.zeros((8, 8, 3), np.uint8)), 400, "got 8x8 pixels in mode RGB"),
    "a png of 16 bits": ("POST", "/predict", PNG, png(GREY.astype(np.uint16)), 400, "got 8x8 pixels in mode I;16"),
    "a png that bursts": ("POST", "/predict", PNG, bomb(), 400, "3600000000 pixels"),
    "another method": ("GET", "/predict", None, None, 405, "Method Not Allowed"),
    "another path": ("POST", "/digits", RAW, bytes(64), 404, "Not Found"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(service, case):
    method, path, content_type, body, status, text = BAD[case]
    if case == "no length":
        body = iter([bytes(64)])    # the other server consumed the first iterator
    answer = service.ask(method, path, body, {"Content-Type": content_type} if content_type else {})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert text in f"{answer.json['title']}: {answer.json.get('description')}"


@pytest.mark.parametrize("name", ["x" * 65, "caf\xe9"])
def test_a_bad_request_id(service, name):
    answer = service.ask("POST", "/predict", bytes(64), {"Content-Type": RAW, "X-Request-ID": name})
    assert answer.status == 400
    assert "X-Request-ID" in answer.json["description"]
    assert "x-request-id" not in answer.headers


def test_a_request_id_comes_back(service):
    assert service.ask("POST", "/predict", bytes(64), {"Content-Type": RAW, "X-Request-ID": "a 7"}).headers[
        "x-request-id"] == "a 7"


def test_health(service):
    answer = service.ask("GET", "/health")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert answer.json["pid"] in service.worker_pids()
    assert answer.json["threads"] == 2


@pytest.mark.parametrize("path", ROUTES)
def test_answers_are_those_of_this_process(service, path, images, classifier):
    assert len(images) == 450
    assert wrong_answers(service, path, images, classifier, ROUTES[path]) == 0
    # Folding changes bits, and the check detects it.
    assert wrong_answers(service, path, images[:20], classifier, not ROUTES[path]) > 20


def test_a_full_batch(service, images, classifier):
    batch = np.resize(images, (MOST_IMAGES, *images.shape[1:]))
    answer = service.ask("POST", "/predict", batch.tobytes(), {"Content-Type": RAW})
    assert count_wrong(answer, classifier.logits(batch)) == 0


def test_png_is_the_same_as_bytes(service, images, classifier):
    body, headers = png(images[7, :, :, 0]), {"Content-Type": f"{PNG.upper()}; charset=binary"}
    answer = service.ask("POST", "/predict", body, headers)
    assert count_wrong(answer, classifier.logits(images[7:8])) == 0


def test_metrics_are_those_of_all_workers(service):
    names = ("digits_images_total", "digits_requests_total", "digits_request_seconds_count")
    before = [service.metric(name) for name in names]
    for _ in range(5):      # new connections, so that any worker can answer
        assert service.ask("POST", "/predict", bytes(128), {"Content-Type": RAW}).status == 200
        assert service.ask("POST", "/predict", bytes(1), {"Content-Type": RAW}).status == 400
    after = [service.metric(name) for name in names]
    # A request for the metrics counts after its response.
    assert [b - a for a, b in zip(before, after, strict=True)] == [10, 13, 13]
    assert service.metric("digits_workers") == 2
    text = service.ask("GET", "/metrics").body.decode()
    assert 'digits_requests_total{route="/predict",status="400"}' in text
    assert 'digits_request_seconds_bucket{le="+Inf",route="/predict"}' in text


def test_a_killed_worker_is_replaced(service, images, classifier):
    counted, started = (service.metric(f"digits_{name}_total") for name in ("images", "workers_started"))
    before = service.worker_pids()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    after = service.wait_for_workers(gone=victim)
    assert len(after - before) == 1
    assert wrong_answers(service, "/predict", images[:50], classifier, folded=False) == 0
    assert service.metric("digits_images_total") == counted + 100    # the counts of the killed worker remain
    assert service.metric("digits_workers_started_total") == started + 1
    assert service.metric("digits_workers") == 2


@pytest.mark.skipif(not wrk.installed(), reason=wrk.INSTALL)
def test_load_with_every_answer_compared(service, images, classifier, tmp_path):
    expected = classifier.logits(images)
    expected[3:] = classifier.logits(images[3:], folded=True)   # the answers of another route
    wrk.write_digits(tmp_path / "digits.lua", images, expected)
    figures = wrk.finish(wrk.start(service.port, "/predict", 1, 1, tmp_path / "digits.lua"))
    assert figures.requests > 3
    assert (figures.broken, figures.refused) == (0, 0)
    # wrk inspects one request of its script before it sends the second one.
    assert figures.wrong == sum(turn % len(images) >= 3 for turn in range(1, figures.requests + 1))


def oracle(parameters, images):
    """The logits from the formulas in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    x = (images / 255 - p["mean"]) / p["std"]
    for i in range(3):
        weight = p[f"convolutions.{i}.weight"].reshape(x.shape[-1], 3, 3, -1)
        rows, columns = (length - 2 for length in x.shape[1:3])
        y = sum(x[:, a:a + rows, b:b + columns] @ weight[:, a, b] for a in range(3) for b in range(3))
        mean, var, gamma, beta = (p[f"norms.{i}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = np.maximum((y - mean) / np.sqrt(var + 1e-5) * gamma + beta, 0)
    return x.reshape(len(x), -1) @ p["weight"] + p["bias"]


FORK = """
import os, signal, sys
from pathlib import Path
import numpy as np
import fastbn
from examples.service.model import Classifier
from examples.service.parameters import restore

fastbn.set_num_threads(2)
classifier = Classifier(restore(Path(sys.argv[1])))
images = np.resize(np.arange(256, dtype=np.uint8), (512, 8, 8, 1))
here = classifier.logits(images)
pid = os.fork()
if pid == 0:
    signal.alarm(3600)  # ends a child that hangs
    os._exit(0 if np.array_equal(classifier.logits(images), here) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_computes_on_the_thread_that_forked(model):
    # Like a sync worker of Gunicorn.
    done = run("-W", "ignore", "-c", FORK, str(model))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n"


@pytest.mark.parametrize("folded", [False, True])
def test_logits_against_the_formulas(trained, classifier, images, folded):
    exact = oracle(trained[0], images)
    logits = classifier.logits(images, folded=folded)
    assert logits.dtype == np.float32
    assert abs(logits - exact).max() < 2e-6 * abs(exact).max()


def test_the_network_has_learned(trained, classifier, images):
    labels = training.load(training.SEED)[1].labels
    accuracy = 100 * (classifier.logits(images).argmax(axis=1) == labels).mean()
    assert accuracy == pytest.approx(trained[1], abs=1e-9)
    assert accuracy > 95


@pytest.mark.parametrize("folded", [False, True])
def test_an_image_alone_and_in_a_batch(classifier, images, folded):
    alone = np.concatenate([classifier.logits(images[i:i + 1], folded=folded) for i in range(50)])
    same_bits(alone, classifier.logits(images, folded=folded)[:50])


def test_parameters_round_trip(trained, model):
    restored = restore(model)
    assert restored.keys() == trained[0].keys()
    for name, value in trained[0].items():
        same_bits(restored[name], value)
    assert [file.name for file in model.parent.iterdir()] == ["digits.npz"]


@pytest.mark.parametrize(("content", "text"), [
    (b"", "No data left in file"),
    (b"no archive", "contains pickled"),
    (b"PK\x03\x04 cut off", "not a zip file"),
])
def test_a_broken_file_of_parameters(tmp_path, content, text):
    path = tmp_path / "digits.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text) as caught:
        restore(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "value", "text"), [
    ("bias", None, "the parameters have no bias"),
    ("convolutions.1.weight", np.zeros((9, 32), np.float32), r"s.1.weight has shape \(9, 32\); expected \(144, 32\)"),
    ("weight", np.full((256, 10), np.nan, np.float32), "weight has values that are not finite"),
    ("norms.0.running_var", np.full(16, -1, np.float32), "running_var has negative values"),
    ("std", np.zeros(1), "std must be positive"),
])
def test_wrong_parameters(trained, name, value, text):
    parameters = {key: array for key, array in trained[0].items() if key != name}
    if value is not None:
        parameters[name] = value
    with pytest.raises(ValueError, match=text):
        Classifier(parameters)


@pytest.mark.parametrize(("options", "code", "text"), [
    (["--port", "65536"], 2, "expected an integer between 0 and 65535, got '65536'"),
    (["--workers", "0"], 2, "expected an integer of at least 1, got '0'"),
    (["--interface", "rsgi"], 2, "invalid choice: 'rsgi'"),
    (["--threads", "100000"], 1, "n must be between 1 and"),
    (["--model", "README.md"], 1, "README.md is not an archive of arrays"),
    (["--model", "docs"], 1, "Is a directory: 'docs'"),
])
def test_wrong_options(options, code, text):
    done = run("-m", "examples.service", *options)
    assert done.returncode == code
    assert text in done.stderr


@pytest.mark.parametrize(("workers", "env", "threads"), [
    (1, {"FASTBN_NUM_THREADS": "3"}, 3), (4, {"FASTBN_NUM_THREADS": "3"}, 3),
    (2, {"OMP_NUM_THREADS": "6"}, 3), (4, {"OMP_NUM_THREADS": "6"}, 1), (7, {"OMP_NUM_THREADS": "6"}, 1),
])
def test_threads_of_a_worker(workers, env, threads):
    code = f"from examples.service.__main__ import threads_per_worker; print(threads_per_worker({workers}))"
    assert output(code, **env) == str(threads)


def test_train_again(tmp_path, trained, monkeypatch, capsys):
    monkeypatch.setattr(training, "train", lambda: trained)     # trained once already
    path = tmp_path / "new" / "digits.npz"
    for _ in range(2):
        assert main(["--train", "--model", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: test accuracy {trained[1]:.1f} %\n"
        assert restore(path).keys() == trained[0].keys()


@pytest.mark.parametrize(("module", "package", "command"), [
    ("falcon", "falcon", "examples.service"),
    ("PIL", "pillow", "examples.service"),
    ("psutil", "psutil", "examples.service.load_test"),
])
def test_a_missing_package_is_named(module, package, command):
    done = run("-c", f"import runpy, sys; sys.modules['{module}'] = None; sys.argv = ['']; "
                     f"runpy.run_module('{command}', run_name='__main__')")
    assert done.returncode == 1
    assert done.stderr == f'The service needs {package}, which is not installed: pip install ".[service]"\n'


def test_the_scratch_folder_is_removed(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running("wsgi", model, tmp_path / "log", workers=1):
        folders = [path.name for path in tmp_path.glob("fastbn-service-*")]
        assert len(folders) == 1
    assert not list(tmp_path.glob("fastbn-service-*"))
