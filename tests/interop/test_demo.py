"""fastbn demo: its picture, its output, and Ctrl-C."""

import pytest

from fastbn.__main__ import main
from fastbn.cli.console import OutputError

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("tqdm")


@pytest.fixture
def demo(tmp_path):
    """Runs a short demonstration; returns the exit code and whether the picture exists."""
    picture = tmp_path / "x.svg"

    def run():
        return main(["demo", "--epochs", "1", "--out", str(picture)]), picture.exists()

    return run


def test_the_picture_is_named(demo, capsys):
    assert demo() == (0, True)
    assert capsys.readouterr().out.splitlines()[-1].endswith("x.svg")


@pytest.mark.parametrize(("code", "messages"), [(1, ["standard output: is full"]), (141, [])])
def test_a_picture_without_standard_output(code, messages, demo, monkeypatch, capsys):
    def refuse(*lines):
        raise OutputError("standard output: is full", code)

    monkeypatch.setattr("fastbn.cli.demo.demonstration.show", refuse)
    assert demo() == (code, True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line for line in captured.err.splitlines() if "standard output" in line] == messages


def test_ctrl_c_is_one_line(demo, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastbn.cli.demo.training.train_epoch", interrupted)
    assert demo() == (130, False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("interrupted\n")
    assert "Traceback" not in captured.err
