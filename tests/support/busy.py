"""An object that another thread keeps busy refuses calls."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pagedkv import PagedKvError


@contextmanager
def repeated(work: Callable[[], object]) -> Iterator[None]:
    """Another thread does `work` again and again."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    other = threading.Thread(target=run)
    other.start()
    try:
        yield
    finally:
        stop.set()
        other.join()


def refusal(call: Callable[[], object]) -> str:
    """The message when `call` meets a busy object; in between it may succeed, or fail otherwise."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            call()
        except PagedKvError as error:
            if type(error) is PagedKvError:
                return str(error)
    pytest.fail("the busy object never refused")
