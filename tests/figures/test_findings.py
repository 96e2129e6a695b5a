"""The findings in words: each fact is worked out once more, from the table, and looked for in the text."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.errors import UserError
from rdslib.figures import published
from rdslib.figures.findings import HEADING, NOTHING, TEXTS, findings
from rdslib.figures.pareto import pareto_frontier
from rdslib.figures.style import human, method_name

MINI = Path(__file__).resolve().parents[2] / "figures" / "mini"
PUBLISHED: dict[str, Callable[[], pd.DataFrame]] = {
    "fig1_pareto": published.fig1,
    "fig2_pools": published.fig2,
    "fig3_flops": published.fig3,
    "fig4_scaling": published.fig4,
    "tab1_single_task": published.tab1_single_task,
    "tab2_multi_task": published.tab2_multi_task,
    "tab3_second_pool": published.tab3_second_pool,
    "tab4_splits": published.tab4_splits,
    "tab5_pool_sources": published.tab5_pool_sources,
    "tab6_rds_ablation": published.tab6_rds_ablation,
}
MINUS = "\N{MINUS SIGN}"
RANDOM = method_name("random_balanced")
NOT_WORDS = re.compile(r"\b(nan|NaN|None|inf|True|False)\b|  |\[\]|\{|\}|\+0\.0+\b(?!\d)")


@functools.cache
def mini(name: str) -> pd.DataFrame:
    """The table behind a figure of the profile mini; Figure 2's is put together from Table 5's."""
    path = MINI / f"{name}.csv"
    if path.exists():
        return pd.read_csv(path)
    assert name == "fig2_pools"
    pools = pd.read_csv(MINI / "tab5_pool_sources.csv")
    return pd.concat([published.fig2(), pools[pools["origin"] == "measured"]], ignore_index=True)


@functools.cache
def paragraphs(name: str) -> dict[str, str]:
    return split(findings(name, mini(name)))


def split(text: str) -> dict[str, str]:
    """The paragraphs of a text by what they begin with."""
    parts = re.findall(r"\*\*(Published|Measured here|Together)\.\*\* (.+)", text)
    return {{"Published": "published", "Measured here": "measured"}.get(a, "together"): b for a, b in parts}


def of(name: str, origin: str, **values: object) -> pd.DataFrame:
    """The rows of an origin with a score."""
    table = mini(name)
    table = table[table["origin"] == origin].dropna(subset="score")
    for column, value in values.items():
        table = table[table[column] == value]
    return table.assign(gain=table["score"] * np.where(table["better"] == "lower", -1, 1))


def shown(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def escaped(name: str) -> str:
    return name.replace("_", r"\_")


def listed(names: list[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def scores(rows: list[tuple[str, float]], better: str = "lower", **columns: object) -> pd.DataFrame:
    """Measured scores that are told apart from balanced random's by 0.005 or more, and from each other's."""
    table = pd.DataFrame(rows, columns=["method", "score"]).assign(
        origin="measured", pool_size=400, budget=16, better=better, metric="bits per byte", n=80, note="",
        flops=1e12, percent=4.0,
    )  # fmt: skip
    table = table.assign(low=table["score"] - 0.002, high=table["score"] + 0.002, **columns)
    for prefix, method in (("less_random", "random_balanced"), ("less_rds", "rds")):
        base = table.loc[table["method"] == method, "score"]
        table[prefix] = table["score"] - (base.iloc[0] if len(base) else math.nan)
        table[f"{prefix}_low"], table[f"{prefix}_high"] = table[prefix] - 0.004, table[prefix] + 0.004
    return table


# Every figure.


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("origins", [("published",), ("measured",), ("published", "measured")])
def test_a_paragraph_for_each_origin_that_is_there(name: str, origins: tuple[str, ...]) -> None:
    table = mini(name)
    table = table[table["origin"].isin(origins)]
    text = findings(name, table)
    there = [origin for origin in origins if (table["origin"] == origin).any()]
    assert text.startswith(f"{HEADING}\n\n")
    assert not NOT_WORDS.search(text), text
    assert list(split(text)) == there + (["together"] if len(there) == 2 else []) or not there, text
    assert (NOTHING in text) == (not there)
    # The order of the rows of a figure of scores is no finding.
    if there and "score" in table and name != "fig5_score_histogram":
        assert len(findings(name, table.iloc[::-1])) == len(text)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tables_as_they_come_from_the_library(name: str) -> None:
    table = PUBLISHED[name]()
    assert findings(name, table).split("\n\n")[1] == f"**Published.** {paragraphs(name)['published']}"


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_said_to_be_nothing(name: str) -> None:
    for table in (pd.DataFrame(columns=["origin"]), pd.DataFrame(), mini(name).iloc[:0]):
        assert findings(name, table) == f"{HEADING}\n\n{NOTHING}"


def test_an_unknown_figure() -> None:
    with pytest.raises(UserError, match="unknown figure 'fig9'; figures: fig1_pareto, "):
        findings("fig9", pd.DataFrame())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(TEXTS)), st.data())
def test_no_hole_in_a_table_breaks_the_text(name: str, data: st.DataObject) -> None:
    whole = mini(name)
    size = data.draw(st.integers(1, len(whole)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    table = whole.sample(size, random_state=seed).sort_index()
    columns = data.draw(st.lists(st.sampled_from(list(whole.columns)), unique=True, max_size=4))
    share = data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    rng = np.random.default_rng(seed)
    for column in columns:
        table[column] = table[column].mask(rng.random(size) < share)
    text = findings(name, table)
    assert text.startswith(HEADING)
    assert not NOT_WORDS.search(text), text


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "fig5_score_histogram"])
def test_names_are_not_read_as_markdown(name: str) -> None:
    evil = "a_b*c*|<i>`$x$"
    safe = r"a\_b\*c\*\|\<i\>\`\$x\$"
    table = mini(name).copy()
    for column in ("method", "task", "source", "selection", "pool"):
        if column in table:
            table.loc[table[column] == table.dropna(subset=column)[column].iloc[-1], column] = evil
    text = findings(name, table)
    assert evil not in text
    assert safe in text
    rest = text.replace(safe, "")
    assert not re.search(r"(?<!\\)[_|<>`$]", rest), rest


# Figure 1.


@pytest.mark.parametrize("origin", ["published", "measured"])
def test_figure_1_first_of_each_pool_and_its_lead(origin: str) -> None:
    text, digits = paragraphs("fig1_pareto")[origin], 1 if origin == "published" else 3
    known = of("fig1_pareto", origin)
    for size, rows in known.groupby("pool_size"):
        best = rows.loc[rows["gain"].idxmax()]
        base = rows.loc[rows["method"] == "random_balanced", "score"].iloc[0]
        said = (
            f"From {human(size)} the first is {method_name(best['method'])} with {best['score']:.{digits}f}"
        )
        assert said in text
        if best["method"] != "random_balanced":
            assert f"{said}, {shown(best['score'] - base, digits, '+')} against {RANDOM}" in text
        if origin == "measured" and best["method"] != "random_balanced":
            ends = [shown(best[f"less_random_{end}"], 3, "+") for end in ("low", "high")]
            assert f"(paired interval {ends[0]} to {ends[1]})" in text
    kept = pareto_frontier(known["flops"].to_numpy(), known["score"].to_numpy(), known["better"].iloc[0])
    frontier = text.split("by the scores alone: ")[1].split(". Missing")[0]
    for at, (_, row) in enumerate(known.iterrows()):
        points = [part.split(" from ") for part in frontier.split("; ")]
        there = [method_name(row["method"]), human(row["pool_size"])] in points
        assert there == (at in kept), row
    table = mini("fig1_pareto")
    for _, gone in table[(table["origin"] == origin) & table["score"].isna()].iterrows():
        assert (
            f"Missing: {method_name(gone['method'])} from {human(gone['pool_size'])} ({gone['note']})."
            in text
        )


def test_figure_1_what_a_larger_pool_does() -> None:
    rows = of("fig1_pareto", "published").pivot(index="method", columns="pool_size", values="score").dropna()
    gaps = rows.iloc[:, 1] - rows.iloc[:, 0]
    gain, lose = paragraphs("fig1_pareto")["published"].split("to the larger, ")[1].split(";")[:2]
    for method, gap in gaps.items():
        assert f"{method_name(str(method))} ({shown(gap, 1, '+')})" in (gain if gap > 0 else lose)
    measured = of("fig1_pareto", "measured").set_index(["method", "pool_size"])
    sizes = sorted(measured.index.unique("pool_size"))
    text = paragraphs("fig1_pareto")["measured"]
    for method in rows.index.intersection(measured.index.unique("method")):
        small, large = measured.loc[(method, sizes[0])], measured.loc[(method, sizes[-1])]
        clear = large["high"] < small["low"] or large["low"] > small["high"]
        assert (f"{method_name(method)} ({shown(large['score'] - small['score'], 3, '+')})" in text) == clear


def test_figure_1_rank_correlations() -> None:
    said = re.findall(
        rf"({MINUS}?\d\.\d\d) from the \w+ pool \(n = (\d+) shared", paragraphs("fig1_pareto")["together"]
    )
    found = []
    for at in (0, -1):
        sides = []
        for origin in ("published", "measured"):
            rows = of("fig1_pareto", origin)
            size = sorted(rows["pool_size"].unique())[at]
            sides.append(rows[rows["pool_size"] == size].set_index("method")["gain"])
        both = pd.concat(sides, axis=1, join="inner")
        rho = scipy.stats.spearmanr(both.iloc[:, 0], both.iloc[:, 1]).statistic
        found.append((shown(rho, 2), str(len(both))))
    assert said == found


def test_figure_1_better_worse_and_not_told_apart() -> None:
    table = scores([("random_balanced", 1.0), ("rds", 0.99), ("less", 1.01), ("ifd", 0.999)])
    said = f"Beside {RANDOM}, RDS+ is better; LESS is worse; IFD cannot be told apart."
    assert said in findings("fig1_pareto", table)
    wide = table.assign(less_random_high=table["less_random_high"].mask(table["method"] == "rds", 0.0))
    text = findings("fig1_pareto", wide)
    assert f"Beside {RANDOM}, LESS is worse; RDS+ and IFD cannot be told apart." in text
    assert "RDS+ is better" not in text
    # Of the same numbers, where higher is better, the opposite holds.
    text = findings("fig1_pareto", table.assign(better="higher"))
    assert f"Beside {RANDOM}, LESS is better; RDS+ is worse; IFD cannot be told apart." in text
    assert "the first is LESS with 1.010, +0.010 against" in text
    # Without balanced random there is nothing to be beside.
    alone = scores([("rds", 0.99), ("less", 1.01)])
    assert "the first is RDS+ with 0.990. " in findings("fig1_pareto", alone)
    assert "Beside" not in findings("fig1_pareto", alone)


def test_figure_1_follows_the_scores_when_they_are_swapped() -> None:
    table = published.fig1()
    swapped = table.assign(method=table["method"].replace({"rds": "top_ppl", "top_ppl": "rds"}))
    for size, method in ((200_000, "Top-PPL"), (5_817_792, "Top-PPL")):
        assert f"From {human(size)} the first is {method} with" in findings("fig1_pareto", swapped)
    assert "From 5.8M the first is RDS+ with 50.5, +9.4 against" in findings("fig1_pareto", table)


def test_figure_1_agreement_is_of_signs() -> None:
    paper = published.fig1().query("pool_size == 200_000")
    here = scores([("random_balanced", 1.0), ("rds", 0.99), ("less", 1.01), ("top_ppl", 0.999)])
    text = split(findings("fig1_pareto", pd.concat([paper, here])))["together"]
    assert (
        f"which side of {RANDOM} a method is, published and measured agree for RDS+; disagree for LESS; "
        in text
    )
    assert "leave it open for Top-PPL." in text
    assert "whether the larger pool helps" not in text


def test_figure_1_counts_intervals_beside_the_untuned_model() -> None:
    rows = of("fig1_pareto", "measured")
    below, above = (rows["high"] < 1).sum(), (rows["low"] > 1).sum()
    said = (
        f"Of {len(rows)} intervals, {below} lie below 1, the model before fine-tuning, and {above} above it."
    )
    assert said in paragraphs("fig1_pareto")["measured"]
    assert "before fine-tuning" not in findings("fig1_pareto", scores([("rds", 0.9)]))


# Figure 2 and Table 5.


@pytest.mark.parametrize("name", ["fig2_pools", "tab5_pool_sources"])
def test_pools_their_totals_and_largest_sources(name: str) -> None:
    table = mini(name)
    for (origin, pool), rows in table[table["count"] > 0].groupby(["origin", "pool"]):
        total, top = rows["count"].sum(), rows[rows["count"] == rows["count"].max()]
        said = f"{pool} has {total:,} samples of {len(rows)} source"
        if len(rows) == 1:
            said += f", {rows['source'].iloc[0]}."
        else:
            share = f"{100 * rows['count'].max() / total:.1f}%{' each' if len(top) > 1 else ''}"
            said += f"s, the largest {escaped(listed(list(top['source'])))} ({share})"
        assert said in paragraphs(name)[origin]


def test_a_source_that_a_pool_does_not_have_is_not_counted() -> None:
    rows = [{"origin": "measured", "pool": "mine", "source": source, "count": n} for source, n in
            (("sums", 3), ("poems", 1), ("jokes", 0))]  # fmt: skip
    assert "mine has 4 samples of 2 sources, the largest sums (75.0%)." in findings(
        "fig2_pools", pd.DataFrame(rows)
    )


def test_pools_together() -> None:
    sizes = mini("fig2_pools").groupby(["origin", "pool"])["count"].sum()
    ratio = sizes["published"].max() / sizes["measured"].max()
    assert f"Unfiltered Tulu 2, is {ratio:,.0f} times as large" in paragraphs("fig2_pools")["together"]


def test_table_5_says_which_total_the_paper_prints_otherwise() -> None:
    text = paragraphs("tab5_pool_sources")["published"]
    assert re.findall(r"its mixture has ([\d,]+), ", text) == ["326,154", "939,344"]
    assert text.count("the paper prints") == 1
    assert "(the paper prints 326,153 as the total of the mixture)" in text
    table = published.tab5_pool_sources()
    rows = table[table["pool"] == "Tulu 3"]
    cut = rows.loc[(rows["count"] - rows["in_mixture"]).idxmax()]
    assert f"{cut['in_mixture']:,} of the {cut['count']:,} of {cut['source']}, which is cut most" in text
    assert "mixture" not in paragraphs("tab5_pool_sources")["measured"]


def test_a_source_without_a_count_is_missing() -> None:
    table = published.tab5_pool_sources()
    gone = (table["pool"] == "Tulu 2") & (table["source"] == "Open Orca")
    table = table.assign(count=table["count"].mask(gone), note=table["note"].mask(gone, "lost"))
    text = findings("tab5_pool_sources", table)
    assert "Missing: Open Orca in Tulu 2 (lost)." in text
    assert f"Tulu 2 has {5_817_792 - 4_111_858:,} samples of 11 sources" in text


# Figures 3 and 4.


@pytest.mark.parametrize("origin", ["published", "measured"])
def test_figure_3_costs_and_frontier(origin: str) -> None:
    rows, text = of("fig3_flops", origin), paragraphs("fig3_flops")[origin]
    costs = rows.pivot(index="budget", columns="method", values="flops")
    ratio = costs["rds"] / costs["random_balanced"]
    for at in (0, -1):
        value = f"{ratio.iloc[at]:.0f}" if ratio.iloc[at] >= 10 else f"{ratio.iloc[at]:.1f}"
        assert f"{value} times as much at {human(ratio.index[at])}" in text
    kept = pareto_frontier(rows["flops"].to_numpy(), rows["score"].to_numpy(), rows["better"].iloc[0])
    for method, points in rows.iloc[kept].groupby("method"):
        budgets = [human(budget) for budget in sorted(points["budget"])]
        assert f"{method_name(str(method))} at {listed(budgets)}" in text
    last = rows.iloc[kept[-1]]
    assert f"{method_name(last['method'])} at {human(last['budget'])}" in paragraphs("fig3_flops")["together"]
    lead, exponent = f"{rows['flops'].max():.1e}".split("e+")
    power = exponent.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert f" to {lead} \N{MULTIPLICATION SIGN} 10{power} FLOPs" in text


def test_figure_4_published() -> None:
    text = paragraphs("fig4_scaling")["published"]
    wide = published.fig4().pivot(index="budget", columns="method", values="score")
    ahead = int((wide["rds"] > wide["random_balanced"]).sum())
    assert f"The first by score is RDS+ at {ahead} of {len(wide)} sizes; {RANDOM} and RDS+ at 5.8M." in text
    best = wide["rds"].idxmax()
    share = 100 * best / published.TULU2_POOL
    assert f"its best is {wide['rds'].max():.1f} at {human(best)} ({share:.1f}% of the pool)" in text
    passed = wide.index[wide["rds"] > wide["random_balanced"].max()][0]
    share = 100 * passed / published.TULU2_POOL
    assert (
        f"({wide['random_balanced'].max():.1f}, {RANDOM}) at {human(passed)} ({share:.1f}% of the pool)."
        in text
    )
    assert (
        f"RDS+ is ahead of {RANDOM} at {ahead} of {len(wide)} sizes; is level with it at 5.8M"
        in (paragraphs("fig4_scaling")["together"])
    )


def test_figure_4_measured() -> None:
    text = paragraphs("fig4_scaling")["measured"]
    rows = of("fig4_scaling", "measured", method="rds")
    signs = np.where(rows["less_random_high"] < 0, 1, np.where(rows["less_random_low"] > 0, -1, 0))
    tally = text.split("By paired intervals, RDS+ ")[1].split(". ")[0]
    for sign, words in ((1, "is better than"), (-1, "is worse than"), (0, "cannot be told apart from")):
        sizes = [human(budget) for budget in rows["budget"][signs == sign]]
        part = [part for part in tally.split("; ") if part.startswith(words)]
        assert (f"at {listed(sizes)}" in part[0]) if sizes else not part
    first, last = rows.sort_values("budget").iloc[[0, -1]].to_dict("records")
    overlap = first["low"] <= last["high"] and last["low"] <= first["high"]
    ends = [f"{point['score']:.3f} at {human(point['budget'])}" for point in (first, last)]
    said = f"from {ends[0]} to {ends[1]}"
    assert (f"{said}, which cannot be told apart" in text) == overlap
    assert said in text


def test_figure_4_sizes_at_which_methods_change_places() -> None:
    parts = [
        scores([("random_balanced", 1.0), ("rds", rds)], budget=budget)
        for budget, rds in ((8, 1.02), (16, 1.001), (32, 0.98))
    ]
    table = pd.concat(parts)
    text = findings("fig4_scaling", table)
    assert f"The first by score is {RANDOM} at 8 and 16; RDS+ at 32." in text
    assert (
        f"RDS+ is better than {RANDOM} at 32; is worse than it at 8; cannot be told apart from it at 16."
        in text
    )
    assert "It changes sides between 8 and 32." in text
    assert (
        f"RDS+ first passes the best score of any other (1.000, {RANDOM}) at 32 (4.0% of the pool), its"
        in text
    )
    wide = table.assign(less_random_high=table["less_random_high"].clip(lower=0.001))
    text = findings("fig4_scaling", wide)
    assert not re.search("better than|changes sides", text)
    assert "cannot be told apart from it at 16 and 32." in text
    near = table.assign(low=table["low"] - 0.03)
    assert f"(1.000, {RANDOM}) at no size by more than the intervals." in findings("fig4_scaling", near)


# Figures 5 to 7.


def test_figure_5_means_spreads_and_overlap() -> None:
    table, text = mini("fig5_score_histogram"), paragraphs("fig5_score_histogram")["measured"]
    tasks = list(dict.fromkeys(table["task"]))[:2]
    groups = [table.loc[table["task"] == task, "score"].to_numpy() for task in tasks]
    for task, values in zip(tasks, groups, strict=True):
        spread = math.sqrt(sum((values - values.mean()) ** 2) / (len(values) - 1))
        said = f"{task}: mean {values.mean():.3f}, standard deviation {spread:.3f}, n = {len(values)} samples"
        assert said in text
    above = np.mean([a > b for a in groups[0] for b in groups[1]])
    assert f"above one for {tasks[1]} in {100 * above:.1f}% of all pairs" in text
    apart = scipy.stats.ks_2samp(*groups).statistic
    assert f"differ by at most {100 * apart:.1f}%, where 0% is full overlap" in text


def test_figure_5_of_equal_and_of_distant_scores() -> None:
    rows = [{"origin": "measured", "task": task, "score": 0.5} for task in ("A", "B") for _ in range(3)]
    text = findings("fig5_score_histogram", pd.DataFrame(rows))
    assert "above one for B in 0.0% of all pairs." in text
    assert "differ by at most 0.0%, " in text
    apart = pd.DataFrame(rows).assign(score=[0.8, 0.9, 0.85, 0.1, 0.2, 0.15])
    text = findings("fig5_score_histogram", apart)
    assert "above one for B in 100.0% of all pairs." in text
    assert "differ by at most 100.0%, " in text


def mixes(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    counts = rows.pivot_table(index="source", columns=by, values="count", aggfunc="sum").fillna(0)
    return counts / counts.sum()


def check_mixes(shares: pd.DataFrame, names: Callable[[str], str], random: str, text: str) -> None:
    for bar in shares:
        top = shares.index[shares[bar] == shares[bar].max()]
        source = escaped(listed(list(top))) if len(top) <= 3 else f"{len(top)} alike"
        each = " each" if len(top) > 1 else ""
        assert f"{names(bar)} {source} ({100 * shares[bar].max():.1f}%{each})" in text
    most = re.search(r"More than half comes from one source for ([^.]+(?:\.\)[^.]*)*)\.", text)
    assert most is not None
    for bar in shares:
        assert (names(bar) in most[1]) == (shares[bar].max() > 0.5), (bar, most[1])
    far = shares.drop(columns=random).sub(shares[random], axis=0).abs().sum() / 2
    assert f"({far.max():.3f}) is the furthest and " in text
    assert f"({far.min():.3f}) the nearest" in text
    assert f"{names(far.idxmax())} ({far.max():.3f})" in text or (far == far.max()).sum() > 1


def test_figure_6_sources_of_each_selection() -> None:
    shares = mixes(mini("fig6_sources_by_task"), "selection")
    check_mixes(shares, str, "Random", paragraphs("fig6_sources_by_task")["measured"])


def test_figure_7_sources_of_each_method() -> None:
    table, text = mini("fig7_sources_by_method"), paragraphs("fig7_sources_by_method")["measured"]
    sizes = table.groupby("method")["pool_size"].first()
    budgets = sorted(table["budget"].unique())

    def name(method: str) -> str:
        smaller = sizes[method] < sizes.max()
        return method_name(method) + (f" from {human(sizes[method])}" if smaller else "")

    parts = re.split(r"At \S+ samples from \S+, ", text)[1:]
    tops = []
    for budget, part in zip(budgets, parts, strict=True):
        shares = mixes(table[table["budget"] == budget], "method")
        check_mixes(shares, name, "random", part)
        tops.append({method: set(shares.index[shares[method] == shares[method].max()]) for method in shares})
    last = text.split("is the same at each size for ")[1]
    for method in tops[0]:
        assert (name(method) in last) == all(top[method] == tops[0][method] for top in tops)


def test_figure_7_a_bar_without_counts_is_missing() -> None:
    table = mini("fig7_sources_by_method")
    table = table[table["budget"] == table["budget"].min()].assign(note="")
    lost = {"count": math.nan, "note": "not run"}
    hidden = table.assign(**{
        column: table[column].mask(table["method"] == "ifd", value) for column, value in lost.items()
    })  # fmt: skip
    text = findings("fig7_sources_by_method", hidden)
    assert f"Missing: IFD at {human(table['budget'].min())} (not run)." in text
    assert text.count("IFD") == 1


# Tables 1 to 3.


@pytest.mark.parametrize("name", ["tab1_single_task", "tab2_multi_task", "tab3_second_pool"])
@pytest.mark.parametrize("origin", ["published", "measured"])
def test_tables_of_tasks(name: str, origin: str) -> None:
    text, digits = paragraphs(name)[origin], 1 if origin == "published" else 3
    known = of(name, origin)
    leaders = re.findall(r"First by task: (.*?\))\. ", text)
    for _, rows in known.groupby("pool_size"):
        averages = rows[rows["task"] == "Average"].sort_values("gain", ascending=False)
        first, second = averages.iloc[0], averages.iloc[1]
        parts = [f"{method_name(row['method'])} with {row['score']:.{digits}f}" for row in (first, second)]
        close = first["low"] <= second["high"] and second["low"] <= first["high"]
        told = {True: "; by their intervals the two cannot be told apart", False: ", intervals apart"}
        after = told[bool(close)] if origin == "measured" else ""
        assert f"first on average is {parts[0]}, then {parts[1]}{after}." in text
        tasks = rows[rows["task"] != "Average"]
        led_here = leaders.pop(0).split("; ") if len(tasks) else []
        for task, each in tasks.groupby("task"):
            best = each.loc[each["gain"].idxmax()]
            led = next(part for part in led_here if f"{task} ({best['score']:.{digits}f})" in part)
            assert led.startswith(method_name(best["method"])), led
        wide = tasks.pivot(index="method", columns="task", values="gain").dropna()
        if len(wide) > 2:
            ranks = wide.rank(ascending=False).mean(axis=1)
            assert f"The best average rank is {ranks.min():.1f}, of " in text
            assert f"among {len(wide)} methods with a score on each of {wide.shape[1]} tasks" in text
        else:
            assert "average rank" not in text


def test_table_2_names_what_is_missing_once() -> None:
    text = paragraphs("tab2_multi_task")["published"]
    assert (
        "Missing: Tulu 2 mixture, Embed (NV) on Squad, Embed (NV) on AlpacaEval, IFD on each task, " in text
    )
    assert "RDS+ on each task, RDS+ (WildChat) and RDS+ (Arena Hard) (not published)." in text
    assert "Missing" not in paragraphs("tab3_second_pool")["published"]


def by_task(rows: list[tuple[str, float]]) -> pd.DataFrame:
    return pd.concat([scores(rows, task=task) for task in ("MMLU", "Squad", "Average")])


def test_a_table_follows_its_scores_and_intervals() -> None:
    table = by_task([("rds", 0.98), ("less", 0.99), ("ifd", 1.0)])
    text = findings("tab1_single_task", table)
    assert "first on average is RDS+ with 0.980, then LESS with 0.990, intervals apart." in text
    assert (
        "First by task: RDS+ on MMLU (0.980) and Squad (0.980). The first and the next have intervals "
        in text
    )
    assert "best average rank is 1.0, of RDS+, among 3 methods with a score on each of 2 tasks" in text
    swapped = table.assign(method=table["method"].replace({"rds": "less", "less": "rds"}))
    assert "average is LESS with 0.980, then RDS+ with 0.990" in findings("tab1_single_task", swapped)
    text = findings("tab1_single_task", table.assign(better="higher"))
    assert "average is IFD with 1.000, then LESS with 0.990" in text
    text = findings("tab1_single_task", table.assign(high=table["high"] + 0.01))
    assert "LESS with 0.990; by their intervals the two cannot be told apart." in text
    assert "The first and the next cannot be told apart by intervals on any of these." in text
    text = findings("tab1_single_task", table.assign(high=table["high"].mask(table["task"] == "MMLU", 1.2)))
    assert "have intervals apart on Squad and cannot be told apart by intervals on MMLU." in text


def test_where_the_published_first_stands_here() -> None:
    paper = published.tab2_multi_task()
    here = by_task([("rds", 0.98), ("random_balanced", 0.97), ("ifd", 1.0)])
    text = split(findings("tab2_multi_task", pd.concat([paper, here])))["together"]
    assert (
        "RDS+, first of 3 shared methods as published, is number 2 here (told apart by its interval from "
        f"{RANDOM})." in text
    )
    rho = scipy.stats.spearmanr([50.9, 47.5, 35.7], [-0.98, -0.97, -1.0]).statistic
    assert f"is {rho:.2f} (n = 3 shared methods)" in text
    wide = here.assign(low=here["low"] - 0.02)
    text = split(findings("tab2_multi_task", pd.concat([paper, wide])))["together"]
    assert f"number 2 here (cannot be told apart by its interval from {RANDOM})" in text
    two = here[here["method"] != "ifd"]
    text = split(findings("tab2_multi_task", pd.concat([paper, two])))["together"]
    assert "is not to be had (n = 2 shared methods)" in text


# Table 4.


def test_table_4_totals_and_differences() -> None:
    table, texts = mini("tab4_splits"), paragraphs("tab4_splits")
    sides = {}
    for origin in ("published", "measured"):
        rows = table[table["origin"] == origin].dropna(subset=["query", "test"]).set_index("task")
        queries, tests = rows["query"].sum(), rows["test"].sum()
        said = f"In {len(rows)} tasks there are {queries:,.0f} queries and {tests:,.0f} test samples."
        assert said in texts[origin]
        ends = [
            f"{rows['test'].min():,.0f} ({rows['test'].idxmin()})",
            f"{rows['test'].max():,.0f} ({rows['test'].idxmax()})",
        ]
        assert f"Test samples a task go from {ends[0]} to {ends[1]}." in texts[origin]
        sides[origin] = rows
    gone = table.query("origin == 'measured' and test.isna()")
    assert f"Missing: {listed(list(gone['task']))} ({gone['note'].iloc[0]})." in texts["measured"]
    ours, theirs = sides["published"], sides["measured"]
    shared = [task for task in ours.index if task in theirs.index]
    same = [task for task in shared if ours["query"][task] == theirs["query"][task]]
    assert f"Queries are as published for {listed(same)}; they differ for " in texts["together"]
    for task in shared:
        for column in ("query", "test"):
            here, there = theirs[column][task], ours[column][task]
            assert (f"{task} ({here:,.0f} here, {there:,.0f} published)" in texts["together"]) == (
                here != there
            )


# Table 6.


@pytest.mark.parametrize("origin", ["published", "measured"])
def test_table_6_order_and_differences(origin: str) -> None:
    text, digits = paragraphs("tab6_rds_ablation")[origin], 1 if origin == "published" else 3
    rows = of("tab6_rds_ablation", origin).sort_values("gain", ascending=False, kind="stable")
    names = rows["method"].map(lambda method: method_name(method).removeprefix("RDS+, "))
    order = [f"{name} ({score:.{digits}f})" for name, score in zip(names, rows["score"], strict=True)]
    assert f"From the best score down: {listed(order)}." in text
    verdict = text.split("Beside RDS+, ")[1]
    for name, (_, row) in zip(names, rows.iterrows(), strict=True):
        if row["method"] == "rds":
            continue
        if origin == "published":
            assert (
                f"{name} ({shown(row['score'] - rows.set_index('method')['score']['rds'], 1, '+')})"
                in verdict
            )
            continue
        ends = [shown(row[f"less_rds{end}"], 3, "+") for end in ("", "_low", "_high")]
        assert f"{name} ({ends[0]}, interval {ends[1]} to {ends[2]})" in verdict


def test_table_6_verdicts_follow_the_intervals() -> None:
    table = scores([("rds", 1.0), ("rds_eos", 0.99), ("rds_prompt", 1.01), ("rds_label", 1.001)])
    text = findings("tab6_rds_ablation", table).replace(MINUS, "-")
    assert "Beside RDS+, EOS token only (-0.010, interval -0.014 to -0.006) is better; prompt only (" in text
    assert "label only (+0.001, interval -0.003 to +0.005) cannot be told apart." in text
    wide = table.assign(less_rds_high=table["less_rds_high"].mask(table["method"] == "rds_eos", 0.001))
    text = findings("tab6_rds_ablation", wide).replace(MINUS, "-")
    assert ") is better" not in text
    assert "EOS token only (-0.010, interval -0.014 to +0.001) and label only" in text


def test_table_6_whether_the_published_order_holds() -> None:
    paper = published.tab6_rds_ablation()
    like = scores([(row.method, 2 - row.score / 100) for row in paper.itertuples()])
    text = split(findings("tab6_rds_ablation", pd.concat([paper, like])))["together"]
    assert f"The published order of {len(paper)} shared variants holds here." in text
    assert "is 1.00 (n = 5 shared methods)" in text
    assert (
        "a variant is, published and measured agree for uniform mean-pool, EOS token only, label only and"
        in text
    )
    other = like.assign(method=like["method"].replace({"rds_eos": "rds_prompt", "rds_prompt": "rds_eos"}))
    text = split(findings("tab6_rds_ablation", pd.concat([paper, other])))["together"]
    assert f"The published order of {len(paper)} shared variants does not hold here." in text
