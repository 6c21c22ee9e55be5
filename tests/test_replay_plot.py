"""The picture: what is drawn, and that it is drawn."""

import numpy as np
import pytest

from pagedkv.replay import History, ReplayConfig, ReplayError, RunFigures, make_workload, replay
from pagedkv.replay.plot import MAX_POINTS, draw, over_time


def run_with(rows, pool_slots=10, block_size=2):
    figures = RunFigures(pool_slots, block_size, History())
    for step, blocks, tokens in rows:
        figures.add_step(step, 1, blocks, tokens)
    return figures


def test_steps_without_anything_running_count_as_empty():
    figures = run_with([(0, 5, 10), (3, 2, 3)])
    steps, reserved, held = over_time(figures, last_step=4)
    assert steps.tolist() == [0, 1, 2, 3, 4]
    assert reserved.tolist() == [1.0, 0.0, 0.0, 0.4, 0.0]
    assert held.tolist() == [1.0, 0.0, 0.0, 0.3, 0.0]


def test_a_long_run_is_averaged_over_equal_intervals():
    last_step = 10 * MAX_POINTS + 3
    figures = run_with([(step, 5, 4) for step in range(last_step + 1)])
    steps, reserved, held = over_time(figures, last_step)
    assert len(steps) <= MAX_POINTS
    np.testing.assert_allclose(reserved, 1.0)
    np.testing.assert_allclose(held, 0.4)


def test_a_run_without_history_cannot_be_drawn():
    with pytest.raises(ReplayError, match="keep_history"):
        over_time(RunFigures(10, 2), 0)


@pytest.mark.parametrize(
    ("file_format", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
@pytest.mark.filterwarnings("default")
def test_a_picture_is_written_in_the_format_asked_for(tmp_path, file_format, begin):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    result = replay(make_workload(seed=1, count=50), ReplayConfig(keep_history=True))
    path = tmp_path / "picture"
    draw(result, str(path), file_format)
    assert path.read_bytes().startswith(begin)
