"""How many threads operations use, and calls from several of Python's threads and processes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.errors import refuses
from support.paged_cases import Sizes, make_case
from support.processes import run_apart

import pagedkv
from pagedkv import ShapeError, ops


@pytest.fixture(autouse=True)
def number_as_before() -> Iterator[None]:
    before = pagedkv.get_num_threads()
    yield
    pagedkv.set_num_threads(before)


@pytest.fixture
def attention() -> Callable[[], Any]:
    """A call that is cut into many pieces."""
    case = make_case(np.random.default_rng(0), Sizes([1500, 700, 9], [1, 30, 9]))
    return lambda: ops.paged_attention(**case.arrays, **case.keywords)


def test_the_number_of_threads_is_what_was_set() -> None:
    for number in (3, 1, 2):
        pagedkv.set_num_threads(number)
        assert pagedkv.get_num_threads() == number


@pytest.mark.parametrize("number", [0, 1025, 2**40])
def test_a_number_of_threads_out_of_range_is_refused(number: int) -> None:
    with refuses(ShapeError, "set_num_threads", f"num_threads is {number}"):
        pagedkv.set_num_threads(number)


def threads_with(variable: str | None) -> str:
    return run_apart(
        f"""
        import os
        variable = {variable!r}
        os.environ.pop("PAGEDKV_NUM_THREADS", None)
        if variable is not None:
            os.environ["PAGEDKV_NUM_THREADS"] = variable
        import pagedkv
        try:
            print(pagedkv.get_num_threads())
        except pagedkv.UnsupportedError as error:
            print(error)
        """
    ).strip()


def test_there_is_one_thread_a_processor_unless_the_environment_says_otherwise() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert threads_with(None) == str(len(os.sched_getaffinity(0)))
    assert threads_with("") == threads_with(None)
    assert threads_with("3") == "3"


@pytest.mark.parametrize("text", ["0", "-1", "many", "1025", "2 "])
def test_an_environment_that_names_no_number_is_an_error(text: str) -> None:
    assert f"PAGEDKV_NUM_THREADS={text}; expected a number" in threads_with(text)


def test_calls_from_several_threads_at_once_are_right(attention: Callable[[], Any]) -> None:
    pagedkv.set_num_threads(3)
    expected = attention().tobytes()
    wrong = []

    def work() -> None:
        wrong.extend(i for i in range(15) if attention().tobytes() != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_threads_run_while_one_computes() -> None:
    case = make_case(np.random.default_rng(0), Sizes([4096] * 4, [64] * 4, ratio=8))
    done = threading.Event()
    turns = 0

    def compute() -> None:
        ops.paged_attention(**case.arrays, **case.keywords)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_child_after_fork_computes_right() -> None:
    printed = run_apart(
        """
        import os, signal, sys, warnings
        import numpy as np
        import pagedkv
        from pagedkv import ops

        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        k_cache, v_cache = rng.standard_normal((2, 400, 2, 16, 64))
        q = rng.standard_normal((4, 8, 64))
        tables = rng.permutation(400).reshape(4, 100).astype(np.int32)
        attention = lambda: ops.paged_attention(q, k_cache, v_cache, tables, [1600] * 4).tobytes()
        pagedkv.set_num_threads(3)
        expected = attention()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                right = attention() == expected
                pagedkv.set_num_threads(2)
                right = right and attention() == expected
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if attention() == expected else 1)
                status = os.waitpid(grandchild, 0)[1]
                os._exit(0 if right and status == 0 else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert attention() == expected
        print("right")
        """
    )
    assert printed.strip() == "right"


@pytest.mark.parametrize("order", ["torch, pagedkv", "pagedkv, torch"])
def test_torch_and_pagedkv_compute_right_in_turns_in_either_import_order(order: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    printed = run_apart(
        f"""
        import {order}
        import numpy as np
        from pagedkv import ops

        torch.set_num_threads(2)
        pagedkv.set_num_threads(2)
        rng = np.random.default_rng(0)
        k_cache, v_cache = rng.standard_normal((2, 400, 2, 16, 64)).astype(np.float32)
        q = rng.standard_normal((4, 8, 64)).astype(np.float32)
        tables = rng.permutation(400).reshape(4, 100).astype(np.int32)
        attention = lambda: ops.paged_attention(q, k_cache, v_cache, tables, [1600] * 4).tobytes()
        a = torch.from_numpy(rng.standard_normal((256, 256)))
        attended, product = attention(), a @ a
        assert np.allclose(product.numpy(), a.numpy() @ a.numpy())
        for _ in range(20):
            assert attention() == attended
            assert torch.equal(a @ a, product)
        print("right")
        """
    )
    assert printed.strip() == "right"


def test_a_daemon_thread_that_computes_does_not_disturb_the_end_of_the_interpreter() -> None:
    printed = run_apart(
        """
        import threading
        import numpy as np
        import pagedkv
        from pagedkv import ops

        k_cache, v_cache = np.zeros((2, 64, 4, 16, 128), np.float32)
        q, tables = np.zeros((4, 8, 128), np.float32), np.zeros((4, 64), np.int32)
        begun = threading.Event()

        def compute():
            while True:
                ops.paged_attention(q, k_cache, v_cache, tables, [1000] * 4)
                begun.set()

        threading.Thread(target=compute, daemon=True).start()
        begun.wait()
        print("right")
        """
    )
    assert printed.strip() == "right"


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no signals")
def test_interrupts_come_between_calls_and_leave_results_right() -> None:
    printed = run_apart(
        """
        import os, random, signal, threading, time
        import numpy as np
        import pagedkv
        from pagedkv import ops

        # It may have been ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rng = np.random.default_rng(0)
        pagedkv.set_num_threads(3)
        k_cache, v_cache = rng.standard_normal((2, 400, 2, 16, 64)).astype(np.float32)
        q = rng.standard_normal((4, 8, 64)).astype(np.float32)
        tables = rng.permutation(400).reshape(4, 100).astype(np.int32)
        attention = lambda: ops.paged_attention(q, k_cache, v_cache, tables, [1600] * 4).tobytes()
        expected = attention()
        interrupts = 0
        for i in range(20):
            timer = threading.Timer(0.002 * random.random(), os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while True:
                    assert attention() == expected
            except KeyboardInterrupt:
                interrupts += 1
            timer.join()
        assert attention() == expected
        print(interrupts)
        """
    )
    assert printed.strip() == "20"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_children_of_a_process_whose_threads_compute_and_resize_compute_right() -> None:
    printed = run_apart(
        """
        import os, signal, threading, time, warnings
        import numpy as np
        import pagedkv
        from pagedkv import ops

        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        k_cache, v_cache = rng.standard_normal((2, 400, 2, 16, 64)).astype(np.float32)
        q = rng.standard_normal((4, 8, 64)).astype(np.float32)
        tables = rng.permutation(400).reshape(4, 100).astype(np.int32)
        attention = lambda: ops.paged_attention(q, k_cache, v_cache, tables, [1600] * 4).tobytes()
        expected = attention()
        stop, wrong = False, []

        def compute():
            while not stop:
                if attention() != expected:
                    wrong.append(1)

        def resize():
            while not stop:
                for number in (1, 4, 2, 3):
                    pagedkv.set_num_threads(number)

        threads = [threading.Thread(target=f) for f in (compute, compute, resize)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(15):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                right = attention() == expected
                pagedkv.set_num_threads(2)
                os._exit(0 if right and attention() == expected else 1)
            children.append(child)
            time.sleep(0.01)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 15
        stop = True
        for thread in threads:
            thread.join()
        assert not wrong
        print("right")
        """
    )
    assert printed.strip() == "right"
