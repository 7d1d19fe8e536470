"""Counts work, which is the same on every machine, where time is not."""

import sys

MOST_CALLS = 5000       # of a refused file of a few kilobytes; three times as many as any takes


def calls(function, *arguments):
    """Return what a function does, its result or the exception that it raises, and how many functions it called."""
    count = 0

    def step(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        outcome = function(*arguments)
    except Exception as error:
        outcome = error
    finally:
        sys.setprofile(before)
    return outcome, count
