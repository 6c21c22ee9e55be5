"""A refused call: the right error, a message in the project's form, and nothing changed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .state import state_of

FORM = re.compile(r"\[(?P<where>[\w.]+)\] (?P<given>.+); (?P<expected>.+)", re.DOTALL)


@contextmanager
def refuses(
    error: type[Exception],
    where: str,
    given: str = "",
    expected: str = "",
    *,
    unchanged: object = (),
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises `error` with ``[where] ...given...; ...expected...``.

    `unchanged` names an object, or a tuple of them, whose whole visible state must stay.
    """
    objects = unchanged if isinstance(unchanged, tuple) else (unchanged,)
    before = [state_of(each) for each in objects]
    with pytest.raises(error) as raised:
        yield raised
    message = str(raised.value)
    form = FORM.fullmatch(message)
    assert form, message
    assert form["where"] == where, message
    assert given in form["given"], message
    assert expected in form["expected"], message
    assert [state_of(each) for each in objects] == before
