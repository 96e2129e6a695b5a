"""The figures: the frontier, that panels have ink and words stay inside, determinism, and the notebooks."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
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
from matplotlib.text import Text

from rdslib import drawing, figures, published

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = [
    "fig1_pareto", "fig3_flops", "fig4_scaling", "fig5_score_histogram", "fig6_sources_by_task",
    "tab4_splits", "tab5_pool_sources",
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
POOL = pd.DataFrame([{"origin": "measured", "pool": "made up", "source": "sums", "count": 12}])

CASES: dict[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]] = {
    "fig1 published": (figures.fig1_pareto, published.fig1()),
    "fig1 measured": (figures.fig1_pareto, SINGLE),
    "fig1 both": (figures.fig1_pareto, both(published.fig1(), SINGLE)),
    "fig3 published": (figures.fig3_flops, published.fig3()),
    "fig3 both": (figures.fig3_flops, both(published.fig3(), MULTI)),
    "fig4 published": (figures.fig4_scaling, published.fig4()),
    "fig4 both, one missing": (figures.fig4_scaling, both(published.fig4(), UNMEASURED)),
    "fig4 one point": (figures.fig4_scaling, MULTI.iloc[:1]),
    "fig5": (figures.fig5_score_histogram, made_up_histogram()),
    "fig6": (figures.fig6_sources_by_task, made_up_selections()),
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
    assert len(set(drawing.METHOD_COLOURS.values())) == len(drawing.METHOD_COLOURS) == 9
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


@pytest.mark.parametrize("case", ["fig1 both", "fig5", "fig6", "tab5 both"])
def test_saving_twice_gives_the_same_bytes(case: str, tmp_path: Path) -> None:
    draw, table = CASES[case]
    for folder in ("a", "b"):
        paths = figures.save(draw(table), table, tmp_path / folder, "name")
        assert [path.name for path in paths] == ["name.png", "name.svg", "name.csv"]
    for kind in ("png", "svg", "csv"):
        first, second = ((tmp_path / folder / f"name.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second
        assert b"matplotlib" not in first.lower().replace(b"matplotlib.axis", b"")
    assert pd.read_csv(tmp_path / "a" / "name.csv").shape == table.shape


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
    assert notebook.cells[0].cell_type == notebook.cells[-1].cell_type == "markdown"
