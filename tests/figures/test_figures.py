"""The figures: the frontier, that panels have ink and words stay inside, determinism, and the notebooks."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from rdslib.figures import charts as figures
from rdslib.figures import published
from rdslib.figures import style as drawing

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = [
    "fig1_pareto", "fig2_pools", "fig3_flops", "fig4_scaling", "fig5_score_histogram", "fig6_sources_by_task",
    "fig7_sources_by_method", "tab1_single_task", "tab2_multi_task", "tab3_second_pool", "tab4_splits",
    "tab5_pool_sources", "tab6_rds_ablation",
]  # fmt: skip
SYNTHETIC = "SYNTHETIC: made up to test the drawing"


# Tables. The measured ones are made up, and say so in their notes.


def made_up_scores(
    methods: tuple[str, ...], pools: tuple[int, ...], budgets: tuple[int, ...]
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for method in methods:
        for pool in pools:
            for budget in budgets:
                score = 0.9 + 0.03 * rng.standard_normal()
                rows.append({
                    "origin": "measured", "method": method, "pool_size": pool, "budget": budget,
                    "percent": 100 * budget / pool,
                    "flops": 1e12 * budget + (1e11 * pool if method == "rds" else 0),
                    "score": score, "low": score - 0.01, "high": score + 0.012, "n": 120,
                    "metric": "bits per byte", "better": "lower", "note": SYNTHETIC,
                })  # fmt: skip
    return pd.DataFrame(rows)


def made_up_histogram() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    parts = [
        pd.DataFrame({"origin": "measured", "task": task, "score": rng.normal(mean, 0.03, 200)})
        for task, mean in (("GSM8k", 0.7), ("Squad", 0.6), ("Ignored", 0.1))
    ]
    return pd.concat(parts, ignore_index=True)


def made_up_selections() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = [
        {"origin": "measured", "selection": name, "source": source, "count": int(rng.integers(0, 90))}
        for name in ("Random", "MMLU", "GSM8k", "Round-robin")
        for source in ("FLAN V2", "made_up_one", "made_up_two", "Open Orca")
    ]
    return pd.DataFrame(rows)


METHODS = ("random", "random_balanced", "top_ppl", "mid_ppl", "ifd", "less", "embed_minilm", "rds")


def made_up_methods() -> pd.DataFrame:
    """Figure 1 with all methods, wide intervals and many costs that are nearly equal; LESS from one pool."""
    table = made_up_scores(METHODS, (600, 2000), (32,))
    extra = {"random": 0, "random_balanced": 0.02, "embed_minilm": 0.1, "ifd": 1.4, "less": 9}
    passes = table["method"].map(lambda method: extra.get(method, 1))
    table["flops"] = 1e12 * table["budget"] + 5e10 * passes * table["pool_size"]
    gone = (table["method"] == "less") & (table["pool_size"] == 2000)
    table.loc[gone, ["flops", "score", "low", "high"]] = math.nan
    table.loc[gone, "note"] = "not run"
    return table


def made_up_tasks(better: str, pools: tuple[int, ...] = (600, 2000)) -> pd.DataFrame:
    """Table 1: RDS+ is best on every task from the first pool, LESS is missing from the second."""
    rows = []
    for pool in pools:
        for place, method in enumerate(METHODS[::-1]):
            for task, n in (("GSM8k", 12), ("Squad", 16), ("Average", 28)):
                score = (0.9 + 0.01 * place) if better == "lower" else 40.0 - place
                width = 0.011 if better == "lower" else 1.5
                row = {
                    "origin": "measured", "method": method, "pool_size": pool, "task": task, "budget": 32,
                    "score": score, "low": score - width, "high": score + width, "n": n,
                    "metric": "bits per byte" if better == "lower" else "accuracy", "better": better,
                    "note": SYNTHETIC,
                }  # fmt: skip
                if method == "less" and pool == pools[-1]:
                    row |= {"score": math.nan, "low": math.nan, "high": math.nan, "note": "not run"}
                rows.append(row)
    return pd.DataFrame(rows)


def made_up_ablation(better: str = "lower") -> pd.DataFrame:
    methods = ("rds", "rds_eos", "rds_uniform", "rds_prompt", "rds_label")
    table = made_up_tasks(better, (600,)).iloc[: len(methods)].drop(columns="task")
    table["method"], table["n"] = methods, 28
    table["score"] = [0.92, 0.93, 0.91, 0.95, math.nan]
    table["low"], table["high"] = table["score"] - 0.01, table["score"] + 0.011
    table["note"] = [*[SYNTHETIC] * 4, "not run"]
    table["less_rds"] = [math.nan, 0.01, -0.01, 0.03, math.nan]
    table["less_rds_low"], table["less_rds_high"] = table["less_rds"] - 0.004, table["less_rds"] + 0.005
    return table


def made_up_sources() -> pd.DataFrame:
    """Figure 7: sources that a method did not pick from have no row; LESS had a smaller pool."""
    rng = np.random.default_rng(4)
    rows = [
        {
            "origin": "measured", "method": method, "pool_size": 600 if method == "less" else 2000,
            "budget": budget, "source": source, "count": count, "note": SYNTHETIC,
        }
        for method in ("my_own_method", *METHODS[::-1])
        for budget in (320, 32)
        for source, count in zip(
            ("made_up_one", "FLAN V2", "made_up_two", "Open Orca"),
            rng.multinomial(budget, rng.dirichlet((0.3, 1, 1, 1))),
            strict=True,
        )
        if count
    ]  # fmt: skip
    gone = {**rows[0], "method": "embed_nv", "source": "", "count": math.nan, "note": "not run"}
    return pd.DataFrame([*rows, gone])


def both(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([left, right], ignore_index=True)


SINGLE = made_up_scores(("random", "random_balanced", "rds", "my_own_method"), (300, 2400), (48,))
MULTI = made_up_scores(("random_balanced", "rds"), (2400,), (48, 96, 192))
UNMEASURED = MULTI.assign(score=[math.nan, *MULTI["score"][1:]])
SPLITS = pd.DataFrame(
    [
        {"origin": "measured", "task": "GSM8k", "query": 8, "test": 40, "note": SYNTHETIC + ", and longer"},
        {"origin": "measured", "task": "Codex", "query": math.nan, "test": math.nan, "note": "not run"},
    ]
)  # fmt: skip
# Two sources are under 1% of every pool.
POOLS = pd.DataFrame(
    [
        {"origin": "measured", "pool": pool, "source": source, "count": count}
        for pool, counts in {"all": (900, 500, 9, 8, 75), "half": (450, 250, 4, 4, 42)}.items()
        for source, count in zip(("sums", "facts", "odd_one", "other_odd_one", "poems"), counts, strict=True)
    ]
)
POOL = pd.DataFrame([{"origin": "measured", "pool": "made up", "source": "sums", "count": 12}])

CASES: dict[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]] = {
    "fig1 published": (figures.fig1_pareto, published.fig1()),
    "fig1 measured": (figures.fig1_pareto, SINGLE),
    "fig1 both": (figures.fig1_pareto, both(published.fig1(), SINGLE)),
    "fig1 all methods": (figures.fig1_pareto, both(published.fig1(), made_up_methods())),
    "fig3 published": (figures.fig3_flops, published.fig3()),
    "fig3 both": (figures.fig3_flops, both(published.fig3(), MULTI)),
    "fig4 published": (figures.fig4_scaling, published.fig4()),
    "fig4 both, one missing": (figures.fig4_scaling, both(published.fig4(), UNMEASURED)),
    "fig4 one point": (figures.fig4_scaling, MULTI.iloc[:1]),
    "fig5": (figures.fig5_score_histogram, made_up_histogram()),
    "fig6": (figures.fig6_sources_by_task, made_up_selections()),
    "fig7": (figures.fig7_sources_by_method, made_up_sources()),
    "fig7 one budget": (figures.fig7_sources_by_method, made_up_sources().query("budget == 32")),
    "tab1 published": (figures.tab1_single_task, published.tab1_single_task()),
    "tab1 measured": (figures.tab1_single_task, made_up_tasks("lower")),
    "tab1 both": (figures.tab1_single_task, both(published.tab1_single_task(), made_up_tasks("higher"))),
    "tab2 published": (figures.tab2_multi_task, published.tab2_multi_task()),
    "tab2 both": (figures.tab2_multi_task, both(published.tab2_multi_task(), made_up_tasks("lower"))),
    "tab3 published": (figures.tab3_second_pool, published.tab3_second_pool()),
    "tab6 published": (figures.tab6_rds_ablation, published.tab6_rds_ablation()),
    "tab6 measured": (figures.tab6_rds_ablation, made_up_ablation()),
    "tab6 both": (figures.tab6_rds_ablation, both(published.tab6_rds_ablation(), made_up_ablation())),
    "fig2 published": (figures.fig2_pools, published.fig2()),
    "fig2 both": (figures.fig2_pools, both(published.fig2(), POOLS)),
    "tab4 both": (figures.tab4_splits, both(published.tab4_splits(), SPLITS)),
    "tab5 published": (figures.tab5_pool_sources, published.tab5_pool_sources()),
    "tab5 both": (figures.tab5_pool_sources, both(published.tab5_pool_sources(), POOL)),
    "tab5 measured": (figures.tab5_pool_sources, POOL),
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest) -> tuple[Figure, pd.DataFrame]:
    draw, table = CASES[request.param]
    return draw(table), table


def pixels(figure: Figure) -> np.ndarray:
    """The figure as it is saved, (height, width), 0 black to 1 white."""
    image = matplotlib.image.imread(io.BytesIO(drawing.png(figure)))
    grey: np.ndarray = np.mean(np.asarray(image)[..., :3], axis=2)
    return grey


def words(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


# The Pareto frontier.


def naive_frontier(flops: list[float], score: list[float], better: str) -> list[int]:
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
def test_frontier_equals_a_naive_one(points: list[tuple[float, float]], better: str) -> None:
    flops, score = [a for a, _ in points], [b for _, b in points]
    found = figures.pareto_frontier(np.array(flops), np.array(score), better)
    assert found.tolist() == naive_frontier(flops, score, better)


def test_frontier_of_the_published_points() -> None:
    table = published.fig1()
    flops, score = table["flops"].tolist(), table["score"].tolist()
    found = figures.pareto_frontier(np.array(flops), np.array(score), "higher").tolist()
    assert found == naive_frontier(flops, score, "higher")
    assert table.loc[found, ["method", "pool_size"]].values.tolist() == [
        ["random_balanced", 200_000], ["embed_gtr", 5_817_792], ["rds", 5_817_792]
    ]  # fmt: skip


# What is drawn.


def test_panels_have_ink(drawn: tuple[Figure, pd.DataFrame]) -> None:
    figure, _ = drawn
    image = pixels(figure)
    assert image.min() < 0.4
    for axes in figure.axes:
        box = axes.get_position()
        height, width = image.shape
        panel = image[
            int((1 - box.y1) * height) : int((1 - box.y0) * height), int(box.x0 * width) : int(box.x1 * width)
        ]
        assert (panel < 0.9).mean() > 0.005


def test_nothing_is_cut(drawn: tuple[Figure, pd.DataFrame]) -> None:
    figure, _ = drawn
    image = pixels(figure)
    edge = np.concatenate(
        [image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()]
    )
    assert edge.min() > 0.99
    figure.draw_without_rendering()
    for text in words(figure):
        box, whole = text.get_window_extent(), figure.bbox
        if any(
            text in axis.get_ticklabels(which="both")
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
        ):
            # Axes keep labels of ticks beyond their limits, which are not drawn.
            continue
        assert box.x0 >= whole.x0, text.get_text()
        assert box.x1 <= whole.x1, text.get_text()
        assert box.y0 >= whole.y0, text.get_text()
        assert box.y1 <= whole.y1, text.get_text()


def test_words_do_not_overlap(drawn: tuple[Figure, pd.DataFrame]) -> None:
    figure, _ = drawn
    figure.draw_without_rendering()
    for axes in figure.axes:
        texts = [text for text in axes.texts if text.get_text().strip()]
        boxes = [text.get_window_extent() for text in texts]
        for i, first in enumerate(boxes):
            for j in range(i):
                # Boxes of neighbouring table lines touch by a hair; letters do not.
                shrunk = first.padded(-1.5)
                assert not shrunk.overlaps(boxes[j].padded(-1.5)), (texts[i].get_text(), texts[j].get_text())


def test_each_origin_has_its_panel(drawn: tuple[Figure, pd.DataFrame]) -> None:
    figure, table = drawn
    shown = {text.get_text() for text in words(figure)}
    for origin, title in drawing.ORIGINS.items():
        assert (title in shown) == (origin in set(table["origin"]))


def test_figures_leave_pyplot_alone(drawn: tuple[Figure, pd.DataFrame]) -> None:
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", NAMES)
def test_empty_tables_say_so(name: str) -> None:
    figure = getattr(figures, name)(pd.DataFrame(columns=["origin"]))
    assert any("Nothing measured" in text.get_text() for text in words(figure))


def test_lower_is_better_points_up() -> None:
    axes = figures.fig1_pareto(SINGLE).axes[0]
    bottom, top = axes.get_ylim()
    assert top < bottom
    assert "axis inverted" in axes.get_ylabel()
    axes = figures.fig1_pareto(published.fig1()).axes[0]
    assert axes.get_ylim()[0] < axes.get_ylim()[1]


def test_missing_points_are_named_not_drawn() -> None:
    figure = figures.fig1_pareto(published.fig1())
    assert "LESS from 5.8M" in " ".join(text.get_text() for text in words(figure))
    figure = figures.fig4_scaling(MULTI.assign(score=math.nan))
    assert "Not run" in {text.get_text() for text in words(figure)}


def test_points_of_nearly_equal_cost_are_told_apart() -> None:
    table = made_up_methods()
    known = table.dropna(subset="score")
    figure = figures.fig1_pareto(table)
    axes = figure.axes[0]
    bars = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_marker() == "_"]
    places = axes.transData.transform([(x, 1) for x in sorted(set(np.concatenate(bars)))])[:, 0]
    assert len(places) == len(known)
    assert np.diff(places).min() > 4.5 / 72 * figure.dpi
    # Without intervals there is nothing to tell apart, and every point stands at its cost.
    axes = figures.fig1_pareto(table.assign(low=math.nan, high=math.nan)).axes[0]
    marks = [np.asarray(line.get_xdata()) for line in axes.lines]
    assert {place[0] for place in marks if len(place) == 1} == set(known["flops"])


@given(places=st.lists(st.floats(0, 10), min_size=1, max_size=12), gap=st.floats(0.01, 2))
def test_apart_keeps_gaps_and_order(places: list[float], gap: float) -> None:
    given_places = np.array(places)
    moved = drawing.apart(given_places, gap)
    order = np.argsort(given_places, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    # Moved as little as can be: as far to the left as to the right, and not at all with room enough.
    assert moved.sum() == pytest.approx(given_places.sum(), abs=1e-6)
    if (np.diff(given_places[order]) >= gap).all():
        assert moved == pytest.approx(given_places)


def test_figure_2_adds_to_the_pools_and_gathers_what_is_small() -> None:
    figure = figures.fig2_pools(both(published.fig2(), POOLS))
    for axes, table in zip(figure.axes, (published.fig2(), POOLS), strict=True):
        sizes = table.groupby("pool", sort=False)["count"].sum()
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        tops = pd.Series([bar.get_y() + bar.get_height() for bar in bars])
        ends = tops.groupby([round(bar.get_x() + bar.get_width() / 2) for bar in bars]).max()
        assert ends.tolist() == pytest.approx(sizes.tolist())
        totals = [text.get_text() for text in axes.texts if not text.get_text().endswith("%")]
        assert [total for total in totals if total.replace(",", "").isdigit()] == [f"{n:,}" for n in sizes]
        legend = axes.get_legend()
        assert legend is not None
        names = [text.get_text() for text in legend.get_texts()]
        shares = table["count"] / table.groupby("pool")["count"].transform("sum")
        largest = shares.groupby(table["source"]).max()
        assert sorted(names[1:]) == sorted(largest[largest >= 0.01].index)
        assert names[0] == f"{(largest < 0.01).sum()} others, each under 1%"
    one = POOLS[POOLS["source"] != "odd_one"]
    legend = figures.fig2_pools(one).axes[0].get_legend()
    assert legend is not None
    assert "other_odd_one" in [text.get_text() for text in legend.get_texts()]


def test_words_can_be_read_on_white() -> None:
    def contrast(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)

    for colour in (*drawing.METHOD_COLOURS.values(), drawing.GREY):
        assert contrast(drawing.ink(colour)) > 4.4
    assert drawing.ink("#4D4D4D") == "#4D4D4D"
    assert contrast("#E69F00") < 3, "this test's own measure"


def test_figure_7_has_a_panel_a_budget_and_methods_in_order() -> None:
    figure = figures.fig7_sources_by_method(made_up_sources())
    bars = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert bars[0] == bars[1] == [
        "Random\n(unbal.)", "Random\n(bal.)", "LESS\nfrom\N{NO-BREAK SPACE}600", "Embed\n(MiniLM)",
        "Top-PPL", "Mid-PPL", "IFD", "RDS+", "my_own_\nmethod",
    ]  # fmt: skip
    assert [text for text in map(Text.get_text, figure.axes[0].texts) if text.isdigit()] == ["32"] * 9
    assert [text for text in map(Text.get_text, figure.axes[1].texts) if text.isdigit()] == ["320"] * 9
    for axes in figure.axes:
        bars_drawn = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert max(bar.get_y() + bar.get_height() for bar in bars_drawn) == pytest.approx(1)
        assert sum(bar.get_height() for bar in bars_drawn) == pytest.approx(9)
    figure.draw_without_rendering()
    for axes in figure.axes:
        places = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(places))
    assert [axes.get_legend() is None for axes in figure.axes] == [True, False]
    assert "Missing here (not run): Embed (NV) at 320." in figure.get_supxlabel()
    unknown = made_up_sources().assign(count=math.nan)
    assert any("Nothing" in text.get_text() for text in words(figures.fig7_sources_by_method(unknown)))


# Tables.


def grid(figure: Figure, columns: int) -> dict[str, list[Text | None]]:
    """The number cells of a figure's first table, by the first cell of their row, rows of one name in turn.

    A cell belongs to the row whose baseline it shares and to the column whose right edge it shares.
    """
    texts = [text for text in figure.axes[0].texts if text.get_fontsize() == 8.5]
    right = sorted({text.get_position()[0] for text in texts if text.get_horizontalalignment() == "right"})
    edges = right[:columns]
    start = max(
        t.get_position()[0]
        for t in texts
        if t.get_horizontalalignment() == "left" and t.get_position()[0] < edges[0]
    )
    rows: dict[str, list[Text | None]] = {}
    for name in (text for text in texts if text.get_position()[0] == start):
        level = name.get_position()[1]
        found = {t.get_position()[0]: t for t in texts if t.get_position()[1] == level}
        rows.setdefault(name.get_text(), []).extend(found.get(edge) for edge in edges)
    return rows


def bold(cells: list[Text | None]) -> list[bool]:
    return [cell is not None and cell.get_fontweight() == "bold" for cell in cells]


def shown(cells: list[Text | None]) -> list[str]:
    return ["" if cell is None else cell.get_text() for cell in cells]


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_best_of_a_column_and_pool_is_bold(better: str) -> None:
    table = made_up_tasks(better)
    # Another method is best on one task from one pool.
    other = (table["method"] == "random") & (table["pool_size"] == 2000) & (table["task"] == "Squad")
    table.loc[other, "score"] = 0.5 if better == "lower" else 90.25
    rows = grid(figures.tab1_single_task(table), 3)
    # Each method has a row in both groups, of three columns.
    assert bold(rows["RDS+"]) == [True, True, True, True, False, True]
    assert bold(rows["Random (unbal.)"]) == [False, False, False, False, True, False]
    assert shown(rows["Random (unbal.)"])[4] == ("0.500" if better == "lower" else "90.2")
    for name in ("IFD", "LESS", "Embed (MiniLM)", "Top-PPL", "Mid-PPL", "Random (bal.)"):
        assert not any(bold(rows[name]))


def test_table_1_says_what_is_missing_and_how_many_were_tested() -> None:
    figure = figures.tab1_single_task(made_up_tasks("lower"))
    rows = grid(figure, 3)
    assert shown(rows["LESS"])[3:] == ["\N{EN DASH}"] * 3
    text = "\n".join(text.get_text() for text in words(figure))
    assert "Missing here (not run): LESS from 2k." in text
    assert all(f"n = {n}" in text for n in (12, 16, 28))
    assert "0.889 to 0.911" in text
    one_task = made_up_tasks("lower")
    gone = (one_task["method"] == "ifd") & (one_task["task"] == "Squad")
    one_task[["score", "low", "high"]] = one_task[["score", "low", "high"]].mask(gone)
    text = "\n".join(text.get_text() for text in words(figures.tab1_single_task(one_task)))
    assert "IFD from 600 on Squad" in text


def test_table_1_of_the_paper_has_averages_by_pool() -> None:
    table = published.tab1_single_task()
    assert list(table.columns) == published.TABLE_COLUMNS
    assert set(table["task"]) == {published.AVERAGE}
    pd.testing.assert_series_equal(table["score"], published.fig1()["score"])
    figure = figures.tab1_single_task(table)
    rows = grid(figure, 2)
    assert shown(rows["Method"]) == ["From 200k", "From 5.8M"]
    assert shown(rows["RDS+"]) == ["46.4", "50.5"]
    assert shown(rows["LESS"]) == ["44.2", "\N{EN DASH}"]
    assert [name for name, cells in rows.items() if name != "Method" and any(bold(cells))] == ["RDS+"]
    assert any("LESS from 5.8M" in text.get_text() for text in words(figure))


def test_table_2_names_once_what_has_an_average_alone() -> None:
    figure = figures.tab2_multi_task(published.tab2_multi_task())
    text = " ".join(text.get_text().replace("\n", " ") for text in words(figure))
    assert text.count("IFD from 5.8M on each task") == 1
    assert "Embed (NV) from 5.8M on Squad, Embed (NV) from 5.8M on AlpacaEval" in text
    assert "RDS+ from 5.8M on MMLU" not in text
    rows = grid(figure, 8)
    assert shown(rows["RDS+"]) == ["\N{EN DASH}"] * 7 + ["50.9"]


def test_table_6_shows_differences_from_rds() -> None:
    figure = figures.tab6_rds_ablation(made_up_ablation())
    rows = grid(figure, 2)
    assert shown(rows["Variant"]) == ["Score", "Difference from RDS+"]
    assert shown(rows["RDS+"]) == ["0.920", "\N{EN DASH}"]
    assert shown(rows["RDS+, uniform mean-pool"]) == ["0.910", "\N{MINUS SIGN}0.010"]
    assert shown(rows["RDS+, EOS token only"]) == ["0.930", "+0.010"]
    assert shown(rows["RDS+, label only"]) == ["\N{EN DASH}"] * 2
    assert [name for name, cells in rows.items() if bold(cells)[0]] == ["Variant", "RDS+, uniform mean-pool"]
    text = "\n".join(text.get_text() for text in words(figure))
    assert "\N{MINUS SIGN}0.014 to \N{MINUS SIGN}0.005" in text
    assert "below 0 is better" in text
    assert "Missing here (not run): RDS+, label only." in text
    higher = figures.tab6_rds_ablation(made_up_ablation("higher"))
    assert bold(grid(higher, 2)["RDS+, prompt only"])[0]
    assert any("above 0 is better" in text.get_text() for text in words(higher))
    # The paper has no differences, so there is no column for them.
    paper = grid(figures.tab6_rds_ablation(published.tab6_rds_ablation()), 1)
    assert shown(paper["RDS+"]) == ["46.4"]
    assert bold(paper["RDS+"]) == [True]
    assert shown(paper["RDS+, prompt only"]) == ["43.2"]


def test_one_panel_shows_one_metric() -> None:
    mixed = SINGLE.assign(metric=["accuracy", *SINGLE["metric"][1:]])
    with pytest.raises(ValueError, match="one metric"):
        figures.fig1_pareto(mixed)


def test_drawing_does_not_change_its_table() -> None:
    table = both(published.fig3(), MULTI)
    before = table.copy(deep=True)
    figures.fig3_flops(table)
    pd.testing.assert_frame_equal(table, before)


# Colours and numbers.


def test_colours_are_fixed_and_distinct() -> None:
    assert len(set(drawing.METHOD_COLOURS.values())) == len(drawing.METHOD_COLOURS) == 10
    names = published.tab5_pool_sources()["source"]
    everywhere = drawing.source_colours(names)
    assert all(
        drawing.source_colours([name])[name] == everywhere[name] for name in ("FLAN V2", "ShareGPT", "Aya")
    )
    for pool in ("Tulu 2", "Tulu 3"):
        table = published.tab5_pool_sources()
        colours = drawing.source_colours(table.loc[table["pool"] == pool, "source"])
        assert len(set(colours.values())) == len(colours)


@pytest.mark.parametrize(
    ("value", "text"),
    [(48, "48"), (999, "999"), (2_400, "2.4k"), (10_000, "10k"), (326_153, "326k"), (999_600, "1M"),
     (5_817_792, "5.8M"), (1_200_000, "1.2M")],
)  # fmt: skip
def test_human_numbers(value: float, text: str) -> None:
    assert drawing.human(value) == text


# Saving, and the notebooks.


@pytest.mark.parametrize(
    "case", ["fig1 both", "fig1 all methods", "fig5", "fig6", "fig7", "tab1 both", "tab5 both", "tab6 both"]
)
def test_saving_twice_gives_the_same_bytes(case: str, tmp_path: Path) -> None:
    draw, table = CASES[case]
    for folder in ("a", "b"):
        paths = figures.save(draw(table), tmp_path / folder, "name")
        assert [path.name for path in paths] == ["name.png", "name.svg"]
    for kind in ("png", "svg"):
        first, second = ((tmp_path / folder / f"name.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second
        assert b"matplotlib" not in first.lower().replace(b"matplotlib.axis", b"")


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_hold_no_outputs_and_take_parameters(name: str) -> None:
    read: Callable[..., nbformat.NotebookNode] = nbformat.read
    notebook = read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.id for cell in code if "parameters" in cell.metadata.get("tags", [])] == ["parameters"]
    assert code[1].source.splitlines()[-1] == "figure"
    assert f"figures.{name}(" in code[1].source
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code", "code", "markdown", "code"]
    assert code[2].source == f'Markdown(findings("{name}", table))'
