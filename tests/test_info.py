"""build_info: what was built, and what this machine offers."""

import json
import os

import pagedkv


def test_build_info_tells_version_compiler_and_build_type() -> None:
    info = pagedkv.build_info()
    assert set(info) == {
        "version",
        "compiler",
        "build_type",
        "isa_found",
        "isa_chosen",
        "backends",
        "kernels_ran",
        "threads",
    }
    assert info["version"] == pagedkv.__version__
    assert info["compiler"].split()[0] in {"gcc", "clang", "msvc"}
    assert isinstance(info["build_type"], str)


def test_the_instruction_set_that_is_chosen_was_found() -> None:
    info = pagedkv.build_info()
    assert info["isa_found"]
    assert all(isinstance(isa, str) for isa in info["isa_found"])
    assert info["isa_chosen"] in info["isa_found"]


def test_a_backend_is_usable_or_says_why_not() -> None:
    backends = pagedkv.build_info()["backends"]
    assert list(backends) == ["cpu", "cuda", "metal"]
    assert backends["cpu"] is True
    for name in "cuda", "metal":
        usable = backends[name]
        assert usable is True or (isinstance(usable, str) and usable.startswith("not built with"))


def test_it_is_said_plainly_where_the_kernels_of_each_backend_have_run() -> None:
    ran = pagedkv.build_info()["kernels_ran"]
    assert list(ran) == ["cpu", "cuda", "metal"]
    assert "emulation" in ran["cuda"]
    assert "emulation" in ran["metal"]


def test_threads_are_the_processors_that_this_process_may_use() -> None:
    threads = pagedkv.build_info()["threads"]
    if hasattr(os, "sched_getaffinity"):
        assert threads == len(os.sched_getaffinity(0))
    else:
        assert threads == os.cpu_count()


def test_build_info_is_plain_data_and_made_anew_each_time() -> None:
    info = pagedkv.build_info()
    assert json.loads(json.dumps(info)) == info
    info["backends"].clear()
    assert pagedkv.build_info()["backends"]
