"""Ctrl-C ends a call with samples and channels per statistic, whether its groups are many or few."""

import json
import sys

import pytest

from tests.process import DEFAULT_SIGNALS, output

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the test sends POSIX signals")

PROGRAM = DEFAULT_SIGNALS + """
import json, os, threading, time
import numpy as np
from fastbn._core import views
from fastbn._core.dispatch import kernels

view = views.view(np.zeros({shape}, np.float32), {axis})
y = views.output(view)

def interrupt(begun):
    begun.wait()
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

interrupted = 0
for threads in (1, 4):
    for samples in {samples}:
        for channels in (1, 16):
            begun = threading.Event()
            sender = threading.Thread(target=interrupt, args=(begun,))
            sender.start()
            try:
                begun.set()
                while True:
                    kernels.forward(view, y, None, None, None, 1e-5, activation=(0, 0.0), bits=None,
                                    fill=False, num_threads=threads, samples=samples, channels=channels)
            except KeyboardInterrupt:
                interrupted += 1
            sender.join()
print(json.dumps(interrupted))
"""


@pytest.mark.parametrize(("shape", "axis", "samples"), [
    ((100, 64, 8192), 1, (1, 50)), ((819200, 64), 1, (8192, 409600))], ids=["planes", "rows"])
def test_ctrl_c(shape, axis, samples):
    assert json.loads(output(PROGRAM.format(shape=shape, axis=axis, samples=samples))) == 8
