"""fastbn stats on images: modes and depths, conversions, limits, and formats that are not decoded."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the images extra is not installed: no PIL")

from PIL import EpsImagePlugin, Image

from fastbn.__main__ import main
from fastbn.cli.stats.readers import grid, images
from tests.cli.stats.arrays import expect, stats
from tests.cli.stats.test_memory import peak
from tests.process import run

SIZE = (20, 30)
UINT16 = np.random.default_rng(0).integers(0, 1 << 16, SIZE, np.uint16)
RGB = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)


def encoded(image, form="png", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pnm(magic, most, values):
    """A file of the PPM family with a given largest value."""
    height, width = values.shape[:2]
    return b"%s\n%d %d\n%d\n" % (magic, width, height, most) + values.astype(">u2" if most > 255 else "u1").tobytes()


def png(width, height, bits, colour, rows):
    """A PNG of any depth from rows with filter bytes."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def png_48():
    """A PNG with three channels of 16 bits, and its values."""
    x = np.random.default_rng(2).integers(0, 1 << 16, (*SIZE, 3), np.uint16)
    return png(*SIZE[::-1], 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)), x


def unsigned_tiff(values):
    """A TIFF of uint32, made from one of int32, because Pillow does not write uint32."""
    data = encoded(Image.fromarray(values.view(np.int32)), "tiff")
    signed = struct.pack("<HHIHH", 339, 3, 1, 2, 0)
    assert data.count(signed) == 1
    return data.replace(signed, struct.pack("<HHIHH", 339, 3, 1, 1, 0))


INT32 = np.random.default_rng(3).integers(-1 << 31, 1 << 31, SIZE).astype(np.int32)
FLOAT = np.random.default_rng(4).standard_normal(SIZE).astype(np.float32)
EXACT = {
    # name: bytes of the file, values
    "sixteen bits.png": (encoded(Image.fromarray(UINT16)), UINT16),
    "sixteen bits.tiff": (encoded(Image.fromarray(UINT16), "tiff"), UINT16),
    "sixteen bits, compressed.tiff": (encoded(Image.fromarray(UINT16), "tiff", compression="tiff_lzw"), UINT16),
    "sixteen bits.pgm": (pnm(b"P5", 65535, UINT16), UINT16),
    "sixteen bits, as text.pgm": (
        b"P2\n30 20\n65535\n" + " ".join(map(str, UINT16.ravel())).encode() + b"\n", UINT16),
    "int32.tiff": (encoded(Image.fromarray(INT32), "tiff"), INT32),
    "uint32.tiff": (unsigned_tiff(INT32.view(np.uint32)), INT32.view(np.uint32)),
    "float.tiff": (encoded(Image.fromarray(FLOAT), "tiff"), FLOAT),
}


@pytest.mark.parametrize("block", [4 << 20, 100], ids=["a block", "many"])
@pytest.mark.parametrize("name", EXACT)
def test_more_than_8_bits_are_exact(name, block, tmp_path, monkeypatch):
    data, values = EXACT[name]
    monkeypatch.setattr(grid, "BLOCK_BYTES", block)
    (tmp_path / name).write_bytes(data)
    found = stats(tmp_path, tmp_path / name)
    expect(found, [values.reshape(-1, 1)])
    assert found["scaled"] is None      # only uint8 values are scaled


RASTERS = {
    # name: bytes of the file, values, nodata
    "rgb.png": (encoded(Image.fromarray(RGB)), RGB, 7),
    "gray.png": (encoded(Image.fromarray(RGB[..., 0])), RGB[..., :1], 255),
    "absent.png": (encoded(Image.fromarray(RGB[..., 0])), RGB[..., :1], -9999),
    "sixteen bits.tiff": (*EXACT["sixteen bits.tiff"], int(UINT16[3, 4])),
    "int32.tiff": (*EXACT["int32.tiff"], int(INT32[5, 6])),
    "uint32.tiff": (*EXACT["uint32.tiff"], int(INT32.view(np.uint32)[5, 6])),
    "float.tiff": (*EXACT["float.tiff"], float(FLOAT[7, 8])),
    "nan.tiff": (encoded(Image.fromarray(np.where(FLOAT > 1, np.float32(np.nan), FLOAT)), "tiff"),
                 np.where(FLOAT > 1, np.float32(np.nan), FLOAT), np.nan),
}


@pytest.mark.parametrize("block", [4 << 20, 100], ids=["a block", "many"])
@pytest.mark.parametrize("name", RASTERS)
def test_nodata_of_rasters(name, block, tmp_path, monkeypatch):
    data, values, nodata = RASTERS[name]
    monkeypatch.setattr(grid, "BLOCK_BYTES", block)
    (tmp_path / name).write_bytes(data)
    found = stats(tmp_path, tmp_path / name, "--nodata", nodata)
    values = values.reshape(SIZE[0] * SIZE[1], -1).astype(np.float64)
    missing = np.isnan(values) if np.isnan(nodata) else values == nodata
    assert missing.any() == (name != "absent.png")
    kept = np.ma.masked_array(values, missing)
    assert found["omitted"] == missing.sum(axis=0).tolist()
    assert found["count"] == kept.count(axis=0).tolist()
    assert (found["min"], found["max"]) == (kept.min(axis=0).tolist(), kept.max(axis=0).tolist())
    np.testing.assert_allclose(found["mean"], kept.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], kept.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("form", ["png", "tiff", "bmp"])
def test_bilevel_images_count_as_0_and_255(form, tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, SIZE).astype(bool)
    Image.fromarray(bits).save(tmp_path / f"x.{form}")
    expect(stats(tmp_path, tmp_path / f"x.{form}"), [255 * bits.reshape(-1, 1).astype(np.uint8)])


REDUCED = {
    "colour.png": png_48()[0],
    "colour.ppm": pnm(b"P6", 65535, np.zeros((*SIZE, 3))),
    "of 12 bits.pgm": pnm(b"P5", 4095, UINT16 >> 4),
}


@pytest.mark.parametrize("name", REDUCED)
def test_images_that_pillow_reduces_are_refused(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(REDUCED[name])
    assert main(["stats", str(tmp_path / name)]) == 1
    assert capsys.readouterr() == (
        "", f"{tmp_path / name}: has values of more than 8 bits that Pillow does not read exactly; --convert RGB or L "
        "counts 8 bits of each\n")
    assert stats(tmp_path, tmp_path / name, "--convert", "RGB")["channels"] == 3


def test_the_high_bytes_of_more_than_8_bits(tmp_path):
    data, colours = png_48()
    (tmp_path / "colour.png").write_bytes(data)
    expect(stats(tmp_path, tmp_path / "colour.png", "--convert", "RGB"), [(colours >> 8).reshape(-1, 3)])
    high = (UINT16 >> 8).reshape(-1, 1)
    for name in ("sixteen bits.png", "sixteen bits.tiff", "sixteen bits.pgm", "sixteen bits, as text.pgm"):
        (tmp_path / name).write_bytes(EXACT[name][0])
        expect(stats(tmp_path, tmp_path / name, "--convert", "RGB"), [np.repeat(high, 3, axis=1)])
        expect(stats(tmp_path, tmp_path / name, "--convert", "L"), [high])


CONVERTED = {
    "rgb.png": Image.fromarray(RGB), "rgba.png": Image.fromarray(RGB).convert("RGBA"),
    "gray.png": Image.fromarray(RGB[..., 0]), "gray and alpha.png": Image.fromarray(RGB[..., :2], "LA"),
    "bilevel.png": Image.fromarray(RGB[..., 0] > 99), "cmyk.tiff": Image.fromarray(RGB).convert("CMYK"),
    "palette.gif": Image.fromarray(RGB).quantize(16),
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_conversions(mode, tmp_path, monkeypatch):
    """All images of a folder with several modes."""
    monkeypatch.setattr(grid, "BLOCK_BYTES", 512)
    arrays = []
    for name, image in CONVERTED.items():
        (tmp_path / "images").mkdir(exist_ok=True)
        image.save(tmp_path / "images" / name)
        with Image.open(tmp_path / "images" / name) as again:
            arrays.append(np.asarray(again.convert(mode)).reshape(SIZE[0] * SIZE[1], -1))
    found = stats(tmp_path, tmp_path / "images", "--convert", mode)
    expect(found, arrays)
    assert (found["inputs"], found["channels"]) == (len(CONVERTED), len(mode))


@pytest.mark.parametrize(("name", "mode"), [("int32.tiff", "I"), ("float.tiff", "F")])
def test_modes_that_have_no_range(name, mode, tmp_path, capsys):
    (tmp_path / name).write_bytes(EXACT[name][0])
    assert main(["stats", str(tmp_path / name), "--convert", "L"]) == 1
    assert capsys.readouterr().err == f"{tmp_path / name}: has mode {mode}, which --convert L does not support\n"


def test_the_majority_of_images_decides(tmp_path, capsys):
    """A grayscale image at the beginning is skipped, and not the RGB images after it."""
    (tmp_path / "images").mkdir()
    Image.fromarray(RGB[..., 0]).save(tmp_path / "images" / "a.png")
    for name in "bcd":
        Image.fromarray(RGB).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "e.png").write_bytes(b"no image")
    found = stats(tmp_path, tmp_path / "images", "--on-error", "skip")
    expect(found, [RGB.reshape(-1, 3)] * 3)
    assert [(entry["path"], entry["reason"]) for entry in found["skipped"]][:1] == [
        (str(tmp_path / "images" / "a.png"), "has 1 channel; most inputs have 3")]
    assert capsys.readouterr().err.splitlines()[-1] == "inputs counted: 3; skipped: 2"
    assert main(["stats", str(tmp_path / "images")]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path / 'images' / 'b.png'}: has 3 channels; earlier inputs have 1\n")


def test_the_majority_of_arrays_decides(tmp_path):
    first, others = np.zeros((5, 4), np.float32), np.arange(18, dtype=np.float32).reshape(6, 3)
    np.save(tmp_path / "a.npy", first)
    np.savez(tmp_path / "b.npz", x=others, y=others + 1)
    np.save(tmp_path / "c.npy", others + 2)
    paths = [tmp_path / name for name in ("a.npy", "b.npz", "c.npy")]
    found = stats(tmp_path, *paths, "--on-error", "skip")
    expect(found, [others, others + 1, others + 2])
    assert found["skipped"] == [{"path": str(paths[0]), "reason": "has 4 channels; most inputs have 3"}]
    # With equal counts, the first kind.
    expect(stats(tmp_path, *paths[:2], "--on-error", "skip"), [first])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_does_not_matter(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    expect(stats(tmp_path, tmp_path / "x.png"), [RGB.reshape(-1, 3)])


@pytest.mark.parametrize("block", [64, 100, 1000])
def test_rows_longer_than_a_block(block, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "BLOCK_BYTES", block)
    wide = np.random.default_rng(5).integers(0, 256, (3, 400, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "x.png")
    expect(stats(tmp_path, tmp_path / "x.png"), [wide.reshape(-1, 3)])


def test_eps_does_not_start_a_program(tmp_path, monkeypatch, capsys):
    """Pillow would start Ghostscript for an EPS file with any suffix."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    assert main(["stats", str(path)]) == 1
    assert capsys.readouterr() == (
        "", f"{path}: is not a readable image: cannot identify image file {str(path)!r}\n")


@pytest.mark.parametrize("form", ["tga", "ico", "pcx", "dds", "icns"])
def test_other_formats_are_not_decoded(form, tmp_path, capsys):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(RGB), form))
    with Image.open(path) as image:
        assert image.format == form.upper()
    assert main(["stats", str(path)]) == 1
    assert "is not a readable image: cannot identify image file" in capsys.readouterr().err


@pytest.mark.parametrize("form", [*images.FORMATS, "MPO"])
def test_formats_by_their_content(form, tmp_path):
    """The documented formats, and MPO, which some telephones write as JPEG."""
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(Image.fromarray(RGB), form))
    with Image.open(path) as image:
        values = np.asarray(image.convert("RGB"))
    expect(stats(tmp_path, path, "--convert", "RGB"), [values.reshape(-1, 3)])


def test_the_log_of_pillow_is_not_printed(tmp_path):
    path = tmp_path / "x.tiff"
    data = encoded(Image.fromarray(RGB), "tiff")
    entry = struct.pack("<HHIHH", 277, 3, 1, 3, 0)      # samples per pixel
    assert data.count(entry) == 1
    path.write_bytes(data.replace(entry, struct.pack("<HHIHH", 277, 3, 1, 999, 0)))
    done = run("-m", "fastbn", "stats", str(path))      # pytest installs log handlers
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{path}: is not a readable image: cannot identify image file {str(path)!r}\n"


def test_pixels_beyond_the_memory_limit(tmp_path, capsys):
    path, limit = tmp_path / "x.png", Image.MAX_IMAGE_PIXELS
    path.write_bytes(encoded(Image.fromarray(np.zeros((300, 400, 3), np.uint8))))
    assert main(["stats", str(path), "--max-memory", "200K"]) == 1
    assert capsys.readouterr() == (
        "", f"{path}: has 400 x 300 pixels of mode RGB, which take 469 KiB of memory; expected up to 200 KiB; see "
        "--max-memory\n")
    assert main(["stats", str(path), "--max-memory", "100K"]) == 1
    assert capsys.readouterr().err == f"{path}: has more pixels than fit in 100 KiB; see --max-memory\n"
    assert stats(tmp_path, path, "--max-memory", "469K")["count"] == [120_000] * 3
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pixels_beyond_the_limit_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    monkeypatch.setattr(grid, "BLOCK_BYTES", 100_000)       # so that no strip exceeds the limit
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(np.zeros((300, 400, 3), np.uint8))))
    assert stats(tmp_path, path)["count"] == [120_000] * 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux's /proc")
def test_memory_of_an_image(tmp_path):
    """At most four bytes per pixel in Pillow, and some blocks."""
    path = tmp_path / "x.png"
    path.write_bytes(png(6000, 6000, 8, 2, bytes(6000 * (1 + 3 * 6000))))
    found, memory = peak(path, tmp_path)
    assert found["count"] == [36_000_000] * 3
    assert memory < 4 * 36_000_000 + (100 << 20)
