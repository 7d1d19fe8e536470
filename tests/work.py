"""Counts function calls: a measure of work that, unlike time, is the same on every machine."""

import sys

MOST_CALLS = 5000       # to refuse a file of a few kilobytes: three times as many as any file takes


def calls(function, *arguments):
    """Return the result of a function, or the exception that it raises, and the number of functions that it called."""
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
