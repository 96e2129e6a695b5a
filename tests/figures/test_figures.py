"""The figures: the frontier, the right marks, words inside the picture, the same bytes; the notebooks."""

from __future__ import annotations

import io
import math
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from rdslib.errors import UserError
from rdslib.figures import FIGURES, draw, key_numbers, points, style
from rdslib.figures.base import ORIGINS, human, method_title, visible
from rdslib.figures.points import pareto_frontier
from rdslib.figures.publish import as_csv
from rdslib.methods import SCORERS
from tests.figures.made_up import (
    METHODS,
    POOLS,
    both,
    made_up_histogram,
    made_up_methods,
    made_up_quantiles,
    made_up_scores,
    made_up_seeds,
    made_up_selections,
    made_up_sources,
)

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PUBLISHED = {name: figure.published() for name, figure in FIGURES.items() if figure.published is not None}
SINGLE = made_up_scores(("random", "random_balanced", "rds", "a_plug_in_method"), (300, 2400), (48,))
MULTI = made_up_scores(("random_balanced", "rds"), (2400,), (48, 96, 192))
UNMEASURED = MULTI.assign(score=[math.nan, *MULTI["score"][1:]])
CASES = {
    "fig1 published": ("fig1_pareto", PUBLISHED["fig1_pareto"]),
    "fig1 measured": ("fig1_pareto", SINGLE),
    "fig1 all methods": ("fig1_pareto", both(PUBLISHED["fig1_pareto"], made_up_methods())),
    "fig2 both": ("fig2_pools", both(PUBLISHED["fig2_pools"], POOLS)),
    "fig3 both": ("fig3_flops", both(PUBLISHED["fig3_flops"], MULTI)),
    "fig4 both, one missing": ("fig4_scaling", both(PUBLISHED["fig4_scaling"], UNMEASURED)),
    "fig4 one point": ("fig4_scaling", MULTI.iloc[:1]),
    "fig5": ("fig5_score_histogram", made_up_histogram()),
    "fig6": ("fig6_sources_by_task", made_up_selections()),
    "fig7": ("fig7_sources_by_method", made_up_sources()),
    "replication": ("replication", PUBLISHED["replication"]),
    "seeds": ("seeds", made_up_seeds()),
    "one seed": ("seeds", made_up_seeds((1,))),
    "quantiles": ("quantiles", made_up_quantiles()),
    "quantiles of others": ("quantiles", made_up_quantiles(("others",))),
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request):
    name, table = CASES[request.param]
    before = table.copy(deep=True)
    figure = draw(name, table)
    pd.testing.assert_frame_equal(table, before)
    return figure, table


def words(figure):
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def bars(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


# The Pareto frontier.


def naive_frontier(flops, score, better):
    """Keep a point unless another is no dearer and no worse (an equal one counts if it comes first)."""
    sign = 1 if better == "higher" else -1
    kept = [
        i
        for i in range(len(flops))
        if not math.isnan(score[i])
        and not any(
            flops[j] <= flops[i]
            and sign * score[j] >= sign * score[i]
            and ((flops[j], score[j]) != (flops[i], score[i]) or j < i)
            for j in range(len(flops))
            if j != i
        )
    ]
    return sorted(kept, key=lambda i: flops[i])


POINTS = st.lists(
    st.tuples(st.integers(1, 6).map(float), st.one_of(st.integers(0, 6).map(float), st.just(math.nan)))
)


@given(points=POINTS, better=st.sampled_from(["higher", "lower"]))
def test_frontier_equals_a_naive_one(points, better):
    flops, score = np.array(points).reshape(-1, 2).T
    assert pareto_frontier(flops, score, better).tolist() == naive_frontier(flops, score, better)


# What is drawn.


def test_words_stay_inside_and_apart(drawn):
    figure, _ = drawn
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    both_axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    # Axes keep labels of ticks beyond their limits, which are not drawn.
    ticks = [label for axis in both_axes for label in axis.get_ticklabels(which="both")]
    for text in words(figure):
        box = text.get_window_extent()
        inside = box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert text in ticks or inside, text.get_text()
    for axes in figure.axes:
        # Boxes of neighbouring lines touch by a hair; letters do not.
        boxes = [text.get_window_extent().padded(-1.5) for text in axes.texts if text.get_text().strip()]
        assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))


def test_nothing_is_too_small_to_read_where_a_readme_shows_it(drawn):
    figure, _ = drawn
    width = figure.get_figwidth()
    assert width <= style.PAGE
    assert min(text.get_fontsize() for text in words(figure)) / 72 * 830 / max(width, 8.3) >= 9


def under_labels(axes):
    """The marks that lie under a label, by its text; the half of a mark is 3 points."""
    dots = axes.transData.transform(scores_drawn(axes))
    near = 3 * axes.figure.dpi / 72
    boxes = {text.get_text(): text.get_window_extent().padded(near) for text in axes.texts[1:]}
    return [name for name, box in boxes.items() if any(box.contains(*dot) for dot in dots)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["fig1_pareto", "fig3_flops", "fig4_scaling"])
def test_labels_lie_on_no_point(name, seed):
    sizes = (600, 2000) if name == "fig1_pareto" else (2000,)
    budgets = (48,) if name == "fig1_pareto" else (12, 48, 96, 400, 2000)
    methods = METHODS if name == "fig1_pareto" else METHODS[seed % 5 : seed % 5 + 3]
    table = made_up_scores(methods, sizes, budgets, seed)
    rng = np.random.default_rng(seed)
    # Costs that are near each other, as those of methods are that pass over the pool once.
    table["flops"] *= rng.uniform(0.9, 1.1, len(table))
    for rows in (table, table.assign(low=math.nan, high=math.nan)):
        (axes,) = draw(name, rows).axes
        assert under_labels(axes) == []


def test_published_labels_lie_on_no_point():
    for name in ("fig1_pareto", "fig3_flops", "fig4_scaling"):
        (axes,) = draw(name, PUBLISHED[name]).axes
        assert under_labels(axes) == []


@pytest.mark.parametrize("name", ["fig1_pareto", "fig3_flops"])
def test_a_panel_alone_is_as_large_as_beside_another(name):
    paper, ours = PUBLISHED[name], SINGLE if name == "fig1_pareto" else MULTI
    alone, beside = draw(name, paper), draw(name, both(paper, ours))
    (_, shown), (_, shown_beside) = alone._repr_png_(), beside._repr_png_()
    assert 2 * shown["width"] == shown_beside["width"] == 912
    widths = [each.axes[0].get_position().width * each.get_figwidth() for each in (alone, beside)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_every_panel_has_ink_and_its_origin(drawn):
    figure, table = drawn
    image = np.asarray(matplotlib.image.imread(io.BytesIO(style.png(figure))))[..., :3].mean(axis=2)
    for axes in figure.axes:
        box = axes.get_position()
        height, width = image.shape
        inside = image[int((1 - box.y1) * height) : int((1 - box.y0) * height)]
        assert (inside[:, int(box.x0 * width) : int(box.x1 * width)] < 0.85).mean() > 0.002
    shown = {text.get_text() for text in words(figure)}
    for origin, title in ORIGINS.items():
        assert (title in shown) == (origin in set(table["origin"]))
    assert plt.get_fignums() == []


def scores_drawn(axes):
    """The places of an axes' marks: markers of its lines."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", None, "", "_")]
    return sorted((float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True))


@settings(deadline=None, max_examples=8)
@given(
    methods=st.lists(st.sampled_from(METHODS), min_size=1, max_size=5, unique=True),
    budgets=st.lists(st.integers(1, 2000), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", ["fig1_pareto", "fig3_flops", "fig4_scaling"])
def test_random_scores_are_marked_where_they_lie(name, methods, budgets, seed):
    sizes = (3000, 5000) if name == "fig1_pareto" else (5000,)
    budgets = budgets[:1] if name == "fig1_pareto" else budgets
    table = made_up_scores(tuple(methods), sizes, tuple(budgets), seed).assign(low=math.nan, high=math.nan)
    column = "budget" if name == "fig4_scaling" else "flops"
    (axes,) = draw(name, table).axes
    wanted = sorted(zip(table[column].astype(float), table["score"], strict=True))
    np.testing.assert_allclose(scores_drawn(axes), wanted)
    bottom, top = axes.get_ylim()
    assert top < bottom, "lower is better, so that up is better"
    shown = {text.get_text() for text in axes.texts}
    assert {method_title(method) for method in methods} <= shown


@settings(deadline=None, max_examples=8)
@given(names=st.lists(st.text("abc_$", min_size=1, max_size=9), min_size=1, max_size=5, unique=True),
       seed=st.integers(0, 99))  # fmt: skip
def test_random_shares_are_stacked_to_one(names, seed):
    table = made_up_selections(tuple(names), seed)
    (axes,) = draw("fig6_sources_by_task", table).axes
    heights = {}
    for bar in bars(axes):
        place = round(bar.get_x() + bar.get_width() / 2)
        heights.setdefault(place, {})[tuple(bar.get_facecolor())] = bar.get_height()
    wanted = table.pivot(index="selection", columns="source", values="count").loc[names]
    wanted = wanted.div(wanted.sum(axis=1), axis=0)
    colours = style.source_colours(table["source"])
    for place, name in enumerate(names):
        found = [heights[place][matplotlib.colors.to_rgba(colours[source])] for source in wanted.columns]
        np.testing.assert_allclose(found, wanted.loc[name])


@pytest.mark.parametrize("name", FIGURES)
def test_a_table_without_numbers_is_not_drawn(name):
    for table in (pd.DataFrame(columns=["origin"]), pd.DataFrame({FIGURES[name].value: [math.nan]})):
        with pytest.raises(UserError, match=f"^{FIGURES[name].title}: .*; use a profile that measures it"):
            draw(name, table)


def test_missing_points_are_named_not_drawn():
    figure = draw("fig1_pareto", PUBLISHED["fig1_pareto"])
    assert "LESS from 5.8M" in " ".join(text.get_text() for text in words(figure))


def test_points_of_nearly_equal_cost_are_seen_apart():
    table = made_up_methods()
    axes = draw("fig1_pareto", table).axes[0]
    places = sorted(x for x, _ in scores_drawn(axes))
    assert len(places) == len(table.dropna(subset="score"))
    assert np.diff(axes.transData.transform([(x, 1) for x in places])[:, 0]).min() > 4.5 / 72 * 100
    # Without intervals there is nothing to see apart, and every point stands at its cost.
    axes = draw("fig1_pareto", table.assign(low=math.nan, high=math.nan)).axes[0]
    assert {x for x, _ in scores_drawn(axes)} == set(table["flops"].dropna())


@given(places=st.lists(st.floats(0, 10), min_size=1, max_size=12), gap=st.floats(0.01, 2))
def test_apart_keeps_gaps_and_order(places, gap):
    given_places = np.array(places)
    moved = points.apart(given_places, gap)
    order = np.argsort(given_places, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    # Moved as little as can be: as far to the left as to the right, and not at all with room enough.
    assert moved.sum() == pytest.approx(given_places.sum(), abs=1e-6)
    if (np.diff(given_places[order]) >= gap).all():
        assert moved == pytest.approx(given_places)


def test_figure_2_adds_to_the_pools_and_gathers_what_is_small():
    figure = draw("fig2_pools", both(PUBLISHED["fig2_pools"], POOLS))
    for axes, table in zip(figure.axes, (PUBLISHED["fig2_pools"], POOLS), strict=True):
        sizes = table.groupby("pool", sort=False)["count"].sum()
        tops = pd.Series([bar.get_y() + bar.get_height() for bar in bars(axes)])
        ends = tops.groupby([round(bar.get_x() + bar.get_width() / 2) for bar in bars(axes)]).max()
        assert ends.tolist() == pytest.approx(sizes.tolist())
        totals = [text.get_text() for text in axes.texts if text.get_text().replace(",", "").isdigit()]
        assert totals == [f"{n:,}" for n in sizes]
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        shares = table["count"] / table.groupby("pool")["count"].transform("sum")
        largest = shares.groupby(table["source"]).max()
        assert sorted(names[1:]) == sorted(largest[largest >= 0.01].index)
        assert names[0] == f"{(largest < 0.01).sum()} others, each under 1%"


def test_figure_7_has_a_panel_a_budget_and_methods_in_order():
    figure = draw("fig7_sources_by_method", made_up_sources())
    names = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert names[0] == names[1] == [
        "Random\n(unbal.)", "Random\n(bal.)", "LESS\nfrom\N{NO-BREAK SPACE}600", "Embed\n(MiniLM)",
        "Top-PPL", "Mid-PPL", "IFD", "RDS+", "a_plug_\nin_method",
    ]  # fmt: skip
    for axes, budget in zip(figure.axes, ("32", "320"), strict=True):
        assert [text for text in map(Text.get_text, axes.texts) if text.isdigit()] == [budget] * 9
        assert sum(bar.get_height() for bar in bars(axes)) == pytest.approx(9)
    assert [axes.get_legend() is None for axes in figure.axes] == [False, True]
    details = [text.get_text() for text in words(figure) if "selected from" in text.get_text()]
    assert details == [f"{n} samples selected from 2k, but where a bar says otherwise" for n in (32, 320)]


def test_one_panel_shows_one_metric():
    with pytest.raises(ValueError, match="one metric"):
        draw("fig1_pareto", SINGLE.assign(metric=["accuracy", *SINGLE["metric"][1:]]))


# Colours and numbers.


def test_words_can_be_read_on_white():
    def contrast(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)

    for colour in (*map(style.method_colour, SCORERS), style.GREY):
        assert contrast(style.ink(colour)) > 4.4
    assert style.ink("#4D4D4D") == "#4D4D4D"
    assert contrast("#E69F00") < 3, "the measure of this test"


def test_colours_are_fixed_and_distinct():
    assert len({style.method_colour(method) for method in METHODS}) == len(METHODS)
    sources = PUBLISHED["tab5_pool_sources"]
    everywhere = style.source_colours(sources["source"])
    assert all(style.source_colours([name])[name] == everywhere[name] for name in ("FLAN V2", "Aya"))
    for _, rows in sources.groupby("pool"):
        assert len(set(style.source_colours(rows["source"]).values())) == len(rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [(48, "48"), (999, "999"), (2_400, "2.4k"), (10_000, "10k"), (326_153, "326k"), (999_600, "1M"),
     (5_817_792, "5.8M"), (1_200_000, "1.2M")],
)  # fmt: skip
def test_human_numbers(value, text):
    assert human(value) == text


# Saving, and the notebooks.


@pytest.mark.parametrize("case", ["fig1 all methods", "fig3 both", "fig5", "fig7"])
def test_saving_twice_gives_the_same_bytes(case):
    name, table = CASES[case]
    first, second = (draw(name, table).files() for _ in range(2))
    assert first == second
    for data in first.values():
        assert b"matplotlib" not in data.lower().replace(b"matplotlib.axis", b"")


NAMES = [
    "NA",
    "null",
    "None",
    "nan",
    "<img src=x>",
    "a|b",
    "$\\frac$",
    "_x",
    "line\nbreak",
    "\x1b[31mred",
]


def test_a_changed_figure_is_drawn_again():
    figure = draw("fig4_scaling", FIGURES["fig4_scaling"].published())
    before = figure.files()
    assert figure._repr_png_()[0] == before["png"] == style.png(figure)
    figure.axes[0].get_lines()[0].set_linewidth(9)
    assert figure._repr_png_()[0] == figure.files()["png"] != before["png"]


@pytest.mark.parametrize("name", ["fig2_pools", "fig6_sources_by_task", "tab5_pool_sources"])
def test_any_name_is_drawn_and_counted_as_it_is(name):
    rows = [{"origin": "measured", "pool": "$p$", "selection": "$p$", "source": each, "count": 10 + place}
            for place, each in enumerate(NAMES)]  # fmt: skip
    drawn = draw(name, pd.DataFrame(rows))
    files = drawn.files()
    shown = [visible(each) for each in NAMES]
    if name.startswith("fig"):
        # The key reads from the top of the stack down; what a browser could not read is not in the file.
        assert {text.get_text() for text in drawn.axes[0].get_legend().get_texts()} == set(shown)
        ElementTree.fromstring(files["svg"])
    else:
        assert [row[0].text for row in drawn.parts[0].rows] == [*shown, "Total"]
        assert "<img" not in drawn._repr_html_() + files["md"].decode().replace("\\<", "")
        assert len(files["md"].decode().splitlines()) == 2 + 2 + len(NAMES) + 1
    assert key_numbers(pd.DataFrame(rows))["largest source"].tolist() == [NAMES[-1]]
    assert "NA,10" in as_csv(pd.DataFrame(rows)[["source", "count"]])


@pytest.mark.parametrize("name", [*FIGURES, "explore"])
def test_notebooks_hold_no_outputs_and_take_parameters(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.id for cell in code if "parameters" in cell.metadata.get("tags", [])] == ["parameters"]
    if name in FIGURES:
        assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code", "code", "markdown", "code"]
        assert f'draw("{name}", numbers)' in code[1].source
        assert code[1].source.splitlines()[-1] == "figure"
        assert code[2].source == f'summary("{name}", numbers)'
        assert FIGURES[name].title in notebook.cells[0].source
    # How to read it takes three sentences at most; the rest says how it was made, and where there is more.
    _, _, how = notebook.cells[0].source.partition("\n\n**How to read it.** ")
    assert 1 <= len(re.findall(r"[.?!](?= [A-Z*]|$)", how)) <= 3
    made = next(cell for cell in notebook.cells if cell.id == "reading").source
    guides = re.findall(r"\]\((\.\./docs/\w+\.md)#?([\w-]*)\)", made.splitlines()[-1])
    assert guides
    for guide, heading in guides:
        page = (NOTEBOOKS / guide).read_text(encoding="utf-8")
        headings = {
            re.sub(r"[^\w-]", "", each.lower().replace(" ", "-"))
            for each in re.findall("^#+ (.*)", page, re.M)
        }
        assert not heading or heading in headings
