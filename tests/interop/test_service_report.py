"""The report of the load test."""

import os

import pytest

for module in ("PIL", "falcon", "prometheus_client", "psutil"):
    pytest.importorskip(module, reason=f"the service extra is not installed: no {module}")

from examples.service.load_test.kill import Recovery  # noqa: E402
from examples.service.load_test.machine import Load, LoadMeter  # noqa: E402
from examples.service.load_test.report import BEGIN, END, Cell, Results, markdown, write  # noqa: E402
from examples.service.load_test.wrk import Figures  # noqa: E402


def figures(requests=300, broken=0, refused=0, wrong=0):
    return Figures(requests, 2.0, 1.5, 9.25, broken, refused, wrong)


def results(*rounds, replaced=4, wrong=0):
    return Results(machine="a machine", workers=2, threads=1, seconds=2, rounds=len(rounds), changed_digits=0,
                   change=4e-7, cells={Cell("wsgi", "/predict", 8): list(rounds)},
                   recoveries=[Recovery("asgi", 4, replaced, figures(5000, broken=3))], compared=3600, wrong=wrong)


def test_tables():
    text = markdown(results(figures(200), figures(600, broken=1), figures(300, refused=2, wrong=5)),
                    Load("2026-01-31 12:00", 200.0, 60.0, 4.0))
    assert "| Gunicorn, WSGI | `/predict` | 8 | 150 | 100 to 300 | 1.50 | 9.25 | 3 | 5 |" in text
    assert "| Uvicorn, ASGI | 4 | 4 | 5,000 | 3 | 0 | 0 |" in text
    assert "3,600 answers, 0 wrong" in text
    assert "Median of 3 rounds of 2 seconds" in text
    assert "busy" not in text


@pytest.mark.parametrize(("others", "busy"), [(0.0, False), (5.0, False), (5.1, True)])
def test_a_busy_machine_is_told(others, busy):
    assert ("**the machine was busy**" in markdown(results(figures()), Load("", 1.0, 50.0, others))) == busy


@pytest.mark.parametrize(("measured", "good"), [
    (results(figures()), True),
    (results(figures(broken=1)), True),     # killed workers break connections
    (results(figures(), figures(refused=1)), False),
    (results(figures(wrong=1)), False),
    (results(figures(), replaced=3), False),
    (results(figures(), wrong=1), False),
])
def test_what_is_good(measured, good):
    assert measured.good == good


def test_only_the_generated_part_is_replaced(tmp_path):
    path = tmp_path / "service.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write(path, "new")
        assert path.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}"])
def test_a_document_without_a_place(tmp_path, text):
    path = tmp_path / "service.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="lacks the lines"):
        write(path, "new")
    assert path.read_text() == text


def test_the_load_of_this_process():
    meter, used = LoadMeter(), sum(os.times()[:4])
    while sum(os.times()[:4]) < used + 0.2:     # CPU time; other processes may use the CPU too
        sum(range(10000))
    load, used = meter.read(), sum(os.times()[:4]) - used
    assert load.ours * os.cpu_count() * load.seconds / 100 == pytest.approx(used, abs=0.1)
    assert load.others >= 0
