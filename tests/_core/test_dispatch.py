"""The choice of the ISA level, and its override by FASTBN_ISA."""

import pytest

from fastbn._core import dispatch
from fastbn._core.dispatch import LEVELS, built, choose, supported
from tests.process import error, output, run

REPORT = "from fastbn._core.dispatch import isa, kernels; print(isa, kernels.__name__)"


@pytest.mark.parametrize("level", supported())
def test_override(level):
    for text in (level, f" {level.upper()} "):
        assert output(REPORT, FASTBN_ISA=text) == f"{level} fastbn._core.kernels.{level}"


@pytest.mark.parametrize("level", [level for level in LEVELS if level not in supported()])
def test_a_level_that_cannot_run_is_refused(level):
    assert error("import fastbn", FASTBN_ISA=level).startswith(f"ImportError: FASTBN_ISA={level!r}")


def test_default_is_the_best():
    best = supported()[0]
    assert output(REPORT) == f"{best} fastbn._core.kernels.{best}"
    assert output(REPORT, FASTBN_ISA="") == f"{best} fastbn._core.kernels.{best}"


@pytest.mark.parametrize("wanted", ["v9", "avx2", "v4,v3", "0"])
def test_unknown(wanted):
    message = error("import fastbn", FASTBN_ISA=wanted)
    assert message == f"ImportError: FASTBN_ISA={wanted!r}; expected one of {', '.join(built())}"


def test_only_the_chosen_level_is_imported():
    code = ("import sys, fastbn\nfrom fastbn._core.dispatch import LEVELS\n"
            "print(*sorted(m for m in sys.modules if m in {f'fastbn._core.kernels.{level}' for level in LEVELS}))")
    assert output(code) == f"fastbn._core.kernels.{supported()[0]}"


def test_other_errors_of_the_import_are_not_hidden():
    done = run("-c", "import fastbn", FASTBN_ISA="none")
    assert done.returncode == 1
    assert "FASTBN_ISA='none'" in done.stderr


@pytest.fixture
def machine(monkeypatch):
    """A function that simulates a build with some levels on a CPU of some level."""

    def pretend(levels, cpu_level):
        monkeypatch.setattr(dispatch, "built", lambda: levels)
        monkeypatch.setattr(dispatch.cpu, "level", lambda: cpu_level)

    return pretend


@pytest.mark.parametrize(("levels", "cpu", "wanted", "expected"), [
    (["v4", "v3", "v2"], 4, None, "v4"), (["v4", "v3", "v2"], 3, None, "v3"), (["v4", "v3", "v2"], 2, None, "v2"),
    (["v3", "v2"], 4, None, "v3"), (["v4", "v3", "v2"], 4, "v2", "v2"), (["v4", "v3", "v2"], 4, "v3", "v3"),
    (["base"], 1, None, "base"), (["base"], 4, "base", "base"),
])
def test_choose(machine, levels, cpu, wanted, expected):
    machine(levels, cpu)
    assert choose(wanted) == expected


@pytest.mark.parametrize(("levels", "cpu", "wanted", "message"), [
    (["v4", "v3", "v2"], 3, "v4", "FASTBN_ISA='v4', but this CPU has only v3, v2"),
    (["v3", "v2"], 4, "v4", "FASTBN_ISA='v4', but this build has only v3, v2"),
    (["v4", "v3", "v2"], 4, "v5", "FASTBN_ISA='v5'; expected one of v4, v3, v2"),
    (["v4", "v3", "v2"], 1, None, "fastbn was built for v4, v3, v2, and this CPU has x86-64 level 1"),
])
def test_impossible_choices(machine, levels, cpu, wanted, message):
    machine(levels, cpu)
    with pytest.raises(ImportError, match=message):
        choose(wanted)
