"""All pictures: what is drawn, that it is labelled, that equal pictures are equal files."""

from __future__ import annotations

import re
import sys
from functools import cache

import numpy as np
import pytest
from support.models import CONFIGS

from pagedkv import KVCacheManager, picture
from pagedkv.picture import PictureError
from pagedkv.plan import plan
from pagedkv.plan.plot import draw as draw_plan
from pagedkv.plan.plot import plan_figure
from pagedkv.replay import (
    ReplayConfig,
    Request,
    Trace,
    make_workload,
    prompts_of,
    replay,
    replay_policies,
)
from pagedkv.replay.plot import usage_figure
from pagedkv.replay.policies import all_policies, sweep_of_capacities
from pagedkv.replay.policy_plot import hit_rate_figure
from pagedkv.show import draw as draw_map
from pagedkv.show import map_figure, pool_map

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
# matplotlib itself warns of deprecated parts of its dependencies.
pytestmark = pytest.mark.filterwarnings("default")


def labels(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@cache
def busy_pool():
    manager = KVCacheManager(20, 4, partial_reuse=False)
    for seq, tokens in enumerate(([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], list(range(50, 59)))):
        manager.add(seq, tokens)
        hit = int(manager.acquire([seq])[0])
        manager.schedule([seq], [len(tokens) - hit])
        manager.commit([seq], [len(tokens) - hit])
    manager.free([2])
    return pool_map(manager, find_cached=True)


@cache
def chats():
    requests = [
        Request(n, 0.0, 512 * 4, 8, (n % 3, n % 3 + 10, n % 5 + 20, n)) for n in range(1, 60)
    ]
    return prompts_of(Trace("made", "mooncake", requests))


@cache
def of_policies():
    blocks = chats()
    return replay_policies(blocks, all_policies(), sweep_of_capacities(blocks))


@cache
def replayed():
    return replay(make_workload(1, 60), ReplayConfig(keep_history=True))


FIGURES = {
    "usage": lambda: usage_figure(replayed()),
    "hit rates": lambda: hit_rate_figure(of_policies()),
    "plan": lambda: plan_figure(plan(CONFIGS / "gemma-3-27b.json", "40GiB")),
    "map": lambda: map_figure(busy_pool(), title="a moment"),
}


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_picture_has_labels_with_units_and_a_legend_that_hides_nothing(name, tmp_path):
    figure = FIGURES[name]()
    picture.write(figure, tmp_path / "picture.png")
    assert labels(figure)
    for axes in figure.axes:
        assert axes.get_xlabel() or axes is not figure.axes[-1]
        assert axes.get_ylabel() or figure.get_supylabel()
        assert axes.get_legend() is None  # it stands outside of the axes
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".svg") for name in FIGURES), ("map", ".png"), ("map", ".pdf")]
)
def test_equal_pictures_are_equal_files(name, suffix, tmp_path):
    paths = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for path in paths:
        picture.write(FIGURES[name](), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


def test_a_picture_of_usage_shows_each_run_in_seconds():
    figure = FIGURES["usage"]()
    paged, contiguous = figure.axes
    assert paged.get_title(loc="left").startswith("paged: ")
    assert contiguous.get_title(loc="left").startswith("contiguous: ")
    assert contiguous.get_xlabel() == "time (s)"
    assert figure.get_supylabel() == "share of the pool's token slots"
    assert labels(figure) == ["reserved, empty", "holds tokens"]
    assert len(paged.patches) == 2


def test_a_picture_of_hit_rates_has_a_line_for_each_policy_and_all_its_points():
    result = of_policies()
    figure = hit_rate_figure(result)
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(result.capacities)]
    assert len(drawn) == len(result.policies) == 6
    for line, policy in zip(drawn, result.policies, strict=True):
        rates = [100 * result.hit_rate(policy, capacity) for capacity in result.capacities]
        np.testing.assert_allclose(line.get_ydata(), rates)
        np.testing.assert_array_equal(line.get_xdata(), sorted(result.capacities))
    # Where lines coincide, each can be seen: none is as thick as another, markers differ.
    online = drawn[:-1]
    assert len({line.get_linewidth() for line in online}) == len(online)
    assert len({line.get_marker() for line in online}) == len(online)
    assert len({line.get_color() for line in online}) == len(online)
    assert "belady (knows the future)" in labels(figure)
    assert axes.get_xlabel() == "capacity (blocks of the trace)"


def test_a_sweep_ends_where_nothing_is_evicted():
    blocks = chats()
    sizes = sweep_of_capacities(blocks)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == blocks.num_distinct
    result = replay_policies(blocks, ["lru"], sizes)
    assert result.hit_rate("lru", sizes[-1]) == pytest.approx(blocks.most_hits)
    assert result.hit_rate("lru", sizes[0]) < result.hit_rate("lru", sizes[-1])


def test_a_picture_of_a_plan_shows_what_fits_and_what_it_is_for():
    of_gemma = plan(CONFIGS / "gemma-3-27b.json", "40GiB")
    figure = plan_figure(of_gemma)
    left, right = figure.axes
    curve, points = left.lines
    assert list(points.get_xdata()) == [2048, 8192, 32768]
    assert list(points.get_ydata()) == [fit.sequences for fit in of_gemma.fits]
    assert [text.get_text() for text in left.texts] == [f"{f.sequences:,}" for f in of_gemma.fits]
    assert np.all(np.diff(curve.get_ydata()) <= 0)
    kinds = ["window 1,024, 16 KV heads of 128", "full, 16 KV heads of 128", "held, not read"]
    assert labels(figure) == kinds
    assert len(right.patches) == 3 * 3
    heights = np.array([bar.get_height() for bar in right.patches]).reshape(3, 3)
    held = [fit.bytes_held / 2**30 for fit in of_gemma.fits]
    np.testing.assert_allclose(heights.sum(axis=0), held)
    assert right.get_ylabel() == "one sequence (GiB)"
    assert left.get_xlabel() == "length of each sequence (tokens)"


def test_a_plan_in_which_nothing_fits_at_some_length_is_drawn_down_to_0(tmp_path):
    small = plan(CONFIGS / "llama-3.1-8b.json", "64MiB", lengths=[256, 8192])
    figure = plan_figure(small)
    assert figure.axes[0].get_ylim()[0] == 0.0
    assert [text.get_text() for text in figure.axes[0].texts] == ["2", "0"]
    draw_plan(small, tmp_path / "plan.svg")


def test_a_picture_of_a_map_has_a_cell_for_each_block():
    pool = busy_pool()
    figure = map_figure(pool, title="a moment")
    left, right = figure.axes
    (image,) = left.images
    cells = np.asarray(image.get_array()).reshape(-1, 4)
    assert len(cells) >= pool.num_blocks == 20
    assert np.all(cells[20:, 3] == 0.0)  # behind the last block there is nothing
    colours = [tuple(cell[:3]) for cell in cells[:20]]
    by_state = {
        state: {colours[i] for i in np.flatnonzero(pool.states == state)} for state in (0, 1, 4)
    }
    assert [len(found) for found in by_state.values()] == [1, 1, 1]
    assert len(set(colours)) == 3 + 2  # and one for each of the two sequences
    assert left.get_title(loc="left") == "a moment"
    assert labels(figure) == [
        "held by one sequence (2)", "shared by several (1)", "cached and free (2)", "unused (15)",
    ]  # fmt: skip
    assert [text.get_text() for text in right.get_yticklabels()] == ["0", "1"]
    widths = [bar.get_width() for bar in right.patches]
    assert widths == [1, 1, 1, 1]  # alone, then shared, of each
    assert right.get_xlabel() == "blocks"


@pytest.mark.parametrize(("blocks", "width"), [(1, 2), (20, 8), (2048, 64), (3000, 64)])
def test_a_map_of_blocks_is_ticked_where_rows_begin(blocks, width, tmp_path):
    pool = pool_map(KVCacheManager(blocks, 4))  # without a sequence
    draw_map(pool, tmp_path / "map.svg")
    axes = map_figure(pool).axes[0]
    (image,) = axes.images
    assert image.get_array().shape[1] == width
    ticks = axes.get_yticks()
    assert ticks[0] == 0
    assert min(6, -(-blocks // width)) <= len(ticks) <= 10
    assert np.all(ticks % width == 0)
    assert np.all(ticks < blocks)


def test_brightness_tells_the_states_of_blocks_apart_without_colours():
    from pagedkv.show.plot import STATE_COLOURS

    def grey(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = sorted(grey(colour) for colour in STATE_COLOURS.values())
    assert min(np.diff(shades)) > 0.05


def test_a_picture_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw, where in (
        (lambda: map_figure(busy_pool()), "show.map_figure"),
        (lambda: plan_figure(plan(CONFIGS / "phi-4.json", "1GiB")), "plan.plan_figure"),
        (lambda: hit_rate_figure(of_policies()), "replay.hit_rate_figure"),
    ):
        with pytest.raises(PictureError, match=re.escape("pip install 'pagedkv[plot]'")) as caught:
            draw()
        assert str(caught.value).startswith(f"[{where}] matplotlib cannot be imported")


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.svg.gz"])
def test_a_name_of_an_unknown_kind_is_refused(name):
    with pytest.raises(PictureError, match=rf"\[here\] the picture's name is '{name}'; expected"):
        picture.check_suffix("here", name)
    picture.check_suffix("here", "x.PNG")
