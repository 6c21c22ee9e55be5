"""Small products run on one thread of the OpenBLAS in NumPy's wheels, and only inside."""

from __future__ import annotations

import pytest

from pagedkv.models import blas


def test_inside_there_is_one_thread_and_behind_it_as_many_as_before() -> None:
    library = blas._library()
    if library is None:
        pytest.skip("this NumPy has no OpenBLAS of its own (its wheels on Linux and Windows do)")
    get, set_ = library
    before = get()
    set_(2)
    try:
        with blas.one_thread():
            assert get() == 1
        assert get() == 2
        with blas.one_thread(False):
            assert get() == 2
        with pytest.raises(KeyError), blas.one_thread():
            raise KeyError
        assert get() == 2
    finally:
        set_(before)


def test_without_that_library_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_library", lambda: None)
    with blas.one_thread():
        pass
