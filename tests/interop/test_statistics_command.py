"""fastbn stats with the extras: images, Zarr arrays, pictures, and the progress bar."""

import io
import json
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest

for module, extra in (("PIL", "images"), ("zarr", "zarr"), ("matplotlib", "stats"), ("tqdm", "stats")):
    pytest.importorskip(module, reason=f"the {extra} extra is not installed: no {module}")

import zarr  # noqa: E402
from PIL import Image  # noqa: E402

from fastbn.__main__ import main  # noqa: E402
from fastbn.cli.stats import inputs  # noqa: E402
from fastbn.cli.stats.counting import count as counting  # noqa: E402
from fastbn.cli.stats.readers import grid  # noqa: E402
from tests.cli.stats.arrays import expect, normal, same, stats  # noqa: E402
from tests.process import PATIENCE, settings  # noqa: E402

SHAPES = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def picture(path, mode="RGB", seed=0, size=(20, 30)):
    """Save an image losslessly, and return its values, shape (pixels, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size, *SHAPES[mode]), np.uint8)
    Image.fromarray(values).save(path)
    return values.reshape(size[0] * size[1], -1)


@pytest.mark.parametrize("mode", SHAPES)
def test_folders_of_images(mode, tmp_path):
    names = ("a/x.png", "a/y.PNG", "b/c/z.tiff", "w.png")
    arrays = [picture(tmp_path / "images" / name, mode, seed, (10 + seed, 30)) for seed, name in enumerate(names)]
    picture(tmp_path / "images" / ".hidden.png", "L" if mode != "L" else "RGB")
    (tmp_path / "images" / "labels.csv").write_text("x,1")
    found = stats(tmp_path, tmp_path / "images")
    expect(found, arrays)
    assert found["inputs"] == 4
    values = np.concatenate(arrays) / 255
    np.testing.assert_allclose(found["scaled"]["mean"], values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["scaled"]["std"], values.std(axis=0), rtol=1e-12)


def test_images_have_channels_last_for_any_axis(tmp_path):
    x, y = picture(tmp_path / "x.png"), normal(5, 3, 4, 4, dtype="uint8")
    np.save(tmp_path / "y.npy", y)
    expect(stats(tmp_path, tmp_path / "x.png", tmp_path / "y.npy", "--axis", 1),
           [x, np.moveaxis(y, 1, -1).reshape(-1, 3)])


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_lossy_formats(form, tmp_path):
    smooth = np.linspace(0, 255, 3000).astype(np.uint8).reshape(25, 40, 3)
    Image.fromarray(smooth).save(tmp_path / f"x.{form}")
    with Image.open(tmp_path / f"x.{form}") as image:
        values = np.asarray(image).reshape(-1, 3)
    expect(stats(tmp_path, tmp_path / f"x.{form}"), [values])


@pytest.mark.parametrize("form", ["png", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_palettes_are_looked_up(form, mode, tmp_path):
    colours = np.array([[255, 0, 0], [0, 200, 0], [7, 8, 9]], np.uint8)
    index = np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / f"x.{form}", **({"transparency": 2} if mode == "RGBA" else {}))
    values = colours[index].reshape(-1, 3)
    if mode == "RGBA":
        values = np.column_stack([values, np.where(index.ravel() == 2, 0, 255).astype(np.uint8)])
    expect(stats(tmp_path, tmp_path / f"x.{form}"), [values])


def encoded(image, form="png", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
PNG, JPEG = encoded(NOISE), encoded(NOISE, "jpeg")
UNREADABLE = "is not a readable image: "
WRONG = {
    "gray.png": (encoded(NOISE.convert("L")), "has 1 channel; earlier inputs have 3"),
    "alpha.png": (encoded(NOISE.convert("RGBA")), "has 4 channels; earlier inputs have 3"),
    "one bit.png": (encoded(NOISE.convert("1")), "has 1 channel; earlier inputs have 3"),
    "sixteen bits.png": (encoded(Image.fromarray(np.full((4, 4), 999, np.uint16))), "has 1 channel; earlier inputs"),
    "cmyk.jpg": (encoded(NOISE.convert("CMYK"), "jpeg"),
                 "has mode CMYK; expected L, LA, RGB, RGBA, P, 1, I;16, I or F; see --convert"),
    "truncated.png": (PNG[:-2000], f"{UNREADABLE}image file is truncated"),
    "truncated.jpg": (JPEG[:-500], f"{UNREADABLE}image file is truncated"),
    "cut in the header.png": (PNG[:20], UNREADABLE),
    "crc.png": (PNG[:29] + b"xxxx" + PNG[33:], UNREADABLE),
    "nothing.png": (b"", f"{UNREADABLE}cannot identify image file"),
    "text.jpg": (b"no image" * 99, f"{UNREADABLE}cannot identify image file"),
    "enormous.png": (PNG[:16] + b"\0\1\0\0\0\1\0\0" + PNG[24:29] + b"\x4a\x99\xf1\x83" + PNG[33:], UNREADABLE),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_that_cannot_be_counted(name, tmp_path, capsys):
    data, reason = WRONG[name]
    good = picture(tmp_path / "0.png")
    (tmp_path / name).write_bytes(data)
    assert main(["stats", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{tmp_path / name}: {reason}")
    assert err.count("\n") == 1
    found = stats(tmp_path, tmp_path, "--on-error", "skip")
    expect(found, [good])
    assert [entry["path"] for entry in found["skipped"]] == [str(tmp_path / name)]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("shape", "chunks", "axis"), [
    ((50, 3, 20, 10), (7, 2, 20, 10), 1), ((50, 20, 10, 3), (7, 9, 10, 3), -1), ((500, 6), (64, 5), 1),
    ((40, 300), (40, 300), 0), ((9, 2, 3), (1, 1, 1), 1),
], ids=str)
def test_zarr(shape, chunks, axis, version, tmp_path, monkeypatch):
    x = normal(*shape)
    array = zarr.create_array(tmp_path / "x.zarr", shape=shape, chunks=chunks, dtype="f4", zarr_format=version)
    array[:] = x
    for size in (4 << 20, 2048):
        monkeypatch.setattr(grid, "BLOCK_BYTES", size)
        expect(stats(tmp_path, tmp_path / "x.zarr", "--axis", axis), [x], axis)


@pytest.mark.parametrize("version", [2, 3])
def test_missing_values_of_zarr(version, tmp_path, monkeypatch):
    # A chunk that was never written is full of the fill value.
    x = normal(50, 20, 6)
    x[:7, :9], x[8:30:3, 11, 2] = -9999, np.nan
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=x.shape, chunks=(7, 9, 5), dtype="f4", fill_value=-9999, zarr_format=version)
    array[7:], array[:, 9:] = x[7:], x[:, 9:]
    monkeypatch.setattr(grid, "BLOCK_BYTES", 2048)
    found = stats(tmp_path, tmp_path / "x.zarr", "--nodata", "-9999", "--nan", "omit")
    missing = (x == -9999) | np.isnan(x)
    kept = np.ma.masked_array(x.astype(np.float64), missing)
    assert found["omitted"] == missing.sum(axis=(0, 1)).tolist() == [63, 63, 63 + 8, 63, 63, 63]
    assert found["count"] == kept.count(axis=(0, 1)).tolist()
    np.testing.assert_allclose(found["mean"], kept.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(found["std"], kept.std(axis=(0, 1)), rtol=1e-12)


def test_zarr_with_other_inputs(tmp_path):
    x, y = normal(40, 8, 3, dtype="uint8"), picture(tmp_path / "y.png")
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    group.create_array("train", shape=x.shape, chunks=(9, 8, 3), dtype="u1")[:] = x
    expect(stats(tmp_path, tmp_path / "x.zarr" / "train", tmp_path / "y.png"), [x.reshape(-1, 3), y])


def test_zarr_that_cannot_be_counted(tmp_path, capsys):
    def refused(path):
        assert main(["stats", str(path), "--on-error", "skip"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        first, last = err.splitlines()
        assert last == "nothing was counted; inputs skipped: 1"
        assert first.startswith(f"skipped: {path}: ")
        return first.removeprefix(f"skipped: {path}: ")

    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    group.create_array("b", shape=(4,), chunks=(4,), dtype="f4")
    group.create_array("a", shape=(4, 3), chunks=(4, 3), dtype="c8")
    assert refused(tmp_path / "group.zarr") == (
        f"is a Zarr group; name one of its arrays (a, b) as {tmp_path / 'group.zarr'}/NAME")
    assert refused(tmp_path / "group.zarr" / "a").startswith("has dtype complex64; expected uint8")
    assert refused(tmp_path / "group.zarr" / "b") == "has shape (4,); expected two or more dimensions"
    array = zarr.create_array(tmp_path / "x.zarr", shape=(64, 8), chunks=(16, 8), dtype="f4")
    array[:] = normal(64, 8)
    chunk = tmp_path / "x.zarr" / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    assert refused(tmp_path / "x.zarr").startswith("is damaged: ")
    (tmp_path / "x.zarr" / "zarr.json").write_text("{")
    assert refused(tmp_path / "x.zarr").startswith("is not a readable Zarr array: ")


def test_images_and_zarr_are_resumed(tmp_path, monkeypatch, capsys, heard_signals):
    monkeypatch.setattr(grid, "BLOCK_BYTES", 512)
    for seed in range(4):
        picture(tmp_path / "images" / f"{seed}.png", seed=seed)
    x = normal(900, 7, 3, dtype="uint8")
    zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(5, 4, 2), dtype="u1")[:] = x
    arguments = [tmp_path / "images", tmp_path / "x.zarr"]
    wanted = stats(tmp_path, *arguments)
    monkeypatch.chdir(tmp_path)
    count, left, times = counting.count, [], 0

    def interrupted(*given):
        for number, state in enumerate(count(*given)):
            yield state
            if number == 3:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("fastbn.cli.stats.run.count", interrupted)
        while main(["stats", *map(str, arguments), *left]) == 143:
            left = ["--resume", "fastbn-stats.resume"]
            times += 1
    assert times > 3
    same(stats(tmp_path, *arguments, "--resume", "fastbn-stats.resume"), wanted)
    # A rewritten chunk is a change.
    array = zarr.open_array(tmp_path / "x.zarr")
    array[0, 0, 0] = 255 - array[0, 0, 0]
    capsys.readouterr()
    assert main(["stats", *map(str, arguments), "--resume", "fastbn-stats.resume"]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'x.zarr'}: differs from input 5 of the interrupted run")


@pytest.mark.parametrize("channels", [1, 3, 48, 49, 300])
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_pictures(channels, suffix, tmp_path):
    np.save(tmp_path / "x.npy", normal(50, channels))
    out = tmp_path / f"x.{suffix}"
    assert main(["stats", str(tmp_path / "x.npy"), "--plot", str(out)]) == 0
    data = out.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    if suffix == "svg":
        text = data.decode()
        drawn = f"{channels} channels" if channels > 1 else "1 channel"
        for words in (drawn, "50 values per channel, from 1 input", "minimum to maximum", "mean ± standard deviation"):
            assert f"<!-- {words} -->" in text


def test_a_picture_of_values_that_are_not_finite(tmp_path):
    x = normal(50, 4)
    x[3, 1], x[3, 2] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    assert main(["stats", str(tmp_path / "x.npy"), "--plot", str(tmp_path / "x.png")]) == 0
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (1440, 768)
    assert main(["stats", str(tmp_path / "x.npy"), "--plot", str(tmp_path / "x.svg")]) == 0
    assert "NaN or Inf in channels 1, 2 -->" in (tmp_path / "x.svg").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_the_bar_on_a_terminal(tmp_path):
    import fcntl
    import termios

    np.save(tmp_path / "x.npy", normal(3_000_000, 4))
    (tmp_path / "bad.npy").write_bytes(b"x")
    arguments = [sys.executable, "-m", "fastbn", "stats", str(tmp_path / "x.npy"), str(tmp_path / "bad.npy"),
                 "--on-error", "skip"]
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, 120, 0, 0))
    shown = b""
    with subprocess.Popen(arguments, **settings({}), stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:     # on Linux, after the other end was closed
                break
            if not more:
                break
            shown += more
        out = process.stdout.read()
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0
    assert out.startswith("mean, std = (")
    assert "%|" in text
    assert "B/s]" in text
    assert f"skipped: {tmp_path / 'bad.npy'}: has no valid npy header" in text
    piped = subprocess.run(arguments, **settings({}), capture_output=True, check=True, timeout=PATIENCE)
    assert piped.stderr.startswith("skipped: ")
    assert piped.stderr.count("\n") == 2
    assert piped.stdout == out


def test_no_bar_without_tqdm(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", normal(30, 4))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["stats", str(tmp_path / "x.npy"), "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().err == 'The progress bar needs tqdm, which is not installed: pip install ".[stats]"\n'
    assert json.loads((tmp_path / "out.json").read_text())["count"] == [30] * 4


def test_links_to_folders_are_not_followed(tmp_path):
    x = picture(tmp_path / "images" / "x.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "y.png").symlink_to(tmp_path / "images" / "x.png")
    expect(stats(tmp_path, tmp_path / "images"), [x, x])
    assert [os.path.basename(found.path) for found in inputs.find([str(tmp_path / "images")])] == ["x.png", "y.png"]
