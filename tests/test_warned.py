"""Warnings of one thread: others' are seen as before."""

import threading
import warnings

import pytest

from pyrovae import checks
from pyrovae.warned import gathered, hushed


def in_another_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_gathered_warnings_are_this_threads_alone():
    with pytest.warns(UserWarning, match="^theirs$") as seen, gathered() as found:
        checks.warn("mine", RuntimeWarning)
        in_another_thread(lambda: checks.warn("theirs"))
    assert [tuple(one) for one in found] == [("mine", RuntimeWarning)] and len(seen) == 1


def test_a_hushed_category_is_hushed_in_this_thread_alone_and_filters_come_back():
    before = list(warnings.filters)
    with pytest.warns(FutureWarning, match="^theirs$") as seen, hushed(FutureWarning):
        warnings.warn("mine", FutureWarning, stacklevel=1)
        in_another_thread(lambda: warnings.warn("theirs", FutureWarning, stacklevel=1))
    assert len(seen) == 1 and list(warnings.filters) == before


def test_threads_that_overlap_leave_no_filter_behind():
    before, inside = list(warnings.filters), [threading.Event() for _ in range(2)]

    def other():
        with hushed(UserWarning):
            inside[0].set()
            inside[1].wait(10)

    thread = threading.Thread(target=other)
    with hushed(UserWarning):
        thread.start()
        inside[0].wait(10)
    inside[1].set()
    thread.join()
    assert list(warnings.filters) == before
