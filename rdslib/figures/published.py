"""The paper's numbers, as tidy tables, each with where it comes from.

Every table has `origin` = "published". Where a number comes from is in the column `source`
(`provenance` in the tables of pools, where a source is a data set):
"review" a public review's tables, "ref" the authors' public code, "card" their public model cards,
"fig" read off a figure's pixels (within 0.1), "cited" the cited work's own paper.
A number that was never run or that is not public is NaN, and `note` says which of the two it is.
"""

from __future__ import annotations

import math

import pandas as pd

from rdslib.methods import get_scorer
from rdslib.models.flops import PAPER, training_flops

ORIGIN = "published"
NAN = math.nan
TULU2_POOL = 5_817_792
TULU3_POOL = 4_783_043
SMALL_POOL = 200_000
SCORE = "mean score of 7 tasks"
NOT_PUBLISHED = "not published"
AVERAGE = "Average"
TASKS = ("MMLU", "GSM8k", "BBH", "TydiQA", "Codex", "Squad", "AlpacaEval")

# Registry key to the name on the paper's figures. The last ones are rows of its tables, not scorers.
METHOD_NAMES = {
    "random": "Random (unbal.)",
    "random_balanced": "Random (bal.)",
    "less": "LESS",
    "embed_nv": "Embed (NV)",
    "embed_gtr": "Embed (GTR)",
    # Not the paper's: all-MiniLM-L6-v2, a smaller sentence encoder that comes in a package.
    "embed_minilm": "Embed (MiniLM)",
    "top_ppl": "Top-PPL",
    "mid_ppl": "Mid-PPL",
    "ifd": "IFD",
    "rds": "RDS+",
    "rds_eos": "RDS+, EOS token only",
    "rds_uniform": "RDS+, uniform mean-pool",
    "rds_prompt": "RDS+, prompt only",
    "rds_label": "RDS+, label only",
    "rds_wildchat": "RDS+ (WildChat)",
    "rds_arena_hard": "RDS+ (Arena Hard)",
    "tulu2_mixture": "Tulu 2 mixture",
    "tulu3_sft": "Tulu 3 SFT",
}

# Figure 1 and Table 1: method, from 200k, from 5.8M.
_FIG1 = {
    "random": (40.9, 40.73),
    "random_balanced": (42.2, 41.1),
    "less": (44.2, NAN),
    "embed_nv": (42.7, 41.6),
    "embed_gtr": (42.1, 46.4),
    "top_ppl": (34.2, 30.4),
    "mid_ppl": (39.4, 38.9),
    "ifd": (38.7, 35.8),
    "rds": (46.4, 50.5),
}

# Table 2: the seven tasks and the average.
_TABLE2: dict[str, tuple[float, ...]] = {
    "random": (52.2, 18.0, 44.5, 55.3, 25.7, 81.5, 33.9, 44.5),
    "random_balanced": (51.5, 21.8, 45.1, 50.7, 32.2, 87.9, 43.2, 47.5),
    "tulu2_mixture": (NAN,) * 8,
    "top_ppl": (49.1, 10.5, 39.4, 49.4, 21.6, 80.3, 5.6, 36.6),
    "mid_ppl": (53.1, 13.3, 42.8, 52.4, 20.3, 86.2, 20.7, 41.3),
    "embed_gtr": (49.9, 32.8, 44.6, 54.4, 30.4, 88.4, 35.7, 48.0),
    "embed_nv": (50.6, 28.7, 44.4, 56.0, 30.4, NAN, NAN, 45.3),
    "ifd": (*(NAN,) * 7, 35.7),
    "rds": (*(NAN,) * 7, 50.9),
    "rds_wildchat": (NAN,) * 8,
    "rds_arena_hard": (NAN,) * 8,
}

_TABLE3: dict[str, tuple[float, ...]] = {
    "random": (61.6, 81.2, 66.8, 71.1, 76.4, 89.7, 75.6, 74.6),
    "random_balanced": (62.1, 76.0, 68.6, 68.8, 87.2, 87.4, 72.4, 74.7),
    "tulu3_sft": (62.2, 74.3, 68.2, 67.4, 83.8, 85.5, 71.9, 73.3),
    "rds": (62.5, 77.6, 66.6, 72.1, 83.8, 90.2, 80.2, 76.1),
    "rds_arena_hard": (57.0, 78.7, 59.7, 49.4, 75.7, 66.3, 84.5, 67.3),
}

# Figures 3 and 4: samples selected, RDS+, balanced random.
_FIG4 = (
    (10_000, 43.5, 41.1),
    (25_000, 45.1, 42.6),
    (50_000, 46.7, 44.9),
    (100_000, 49.1, 44.6),
    (180_000, 49.8, 46.3),
    (326_000, 50.9, 47.5),
    (700_000, 50.9, 48.6),
    (1_200_000, 52.4, 49.2),
    (1_500_000, 51.6, 49.3),
    (2_500_000, 51.4, 48.5),
    (TULU2_POOL, 50.8, 50.8),
)

# Table 4: query samples, test samples.
_SPLITS = {
    "MMLU": (285, 14_042),
    "GSM8k": (8, 1_319),
    "BBH": (81, 6_511),
    "TydiQA": (9, 5_077),
    "Codex": (16, 148),
    "Squad": (500, 10_570),
    "AlpacaEval": (50, 755),
}

# Table 5 and its Tulu 3 twin: in the released mixture, in the unfiltered pool.
_TULU2 = {
    "FLAN V2": (49_123, 961_322),
    "FLAN CoT": (49_747, 398_439),
    "Open Assistant": (7_331, 7_707),
    "Dolly": (0, 15_007),
    "GPT-4 Alpaca": (19_906, 52_002),
    "Code Alpaca": (20_016, 20_022),
    "ShareGPT": (111_912, 100_054),
    "LIMA": (1_018, 1_030),
    "Wizard Evol-Instruct V2": (29_810, 142_802),
    "Open Orca": (29_683, 4_111_858),
    "SciRIFF": (7_468, 7_535),
    "Hardcoded": (140, 14),
}
_TULU3 = {
    "Tulu 3 Hardcoded": (240, 24),
    "Open Assistant": (7_132, 7_131),
    "No Robots": (9_500, 9_500),
    "WildChat (GPT-4 subset)": (100_000, 235_028),
    "FLAN V2": (89_982, 961_322),
    "SciRIFF": (10_000, 35_149),
    "TableGPT": (5_000, 13_159),
    "Tulu 3 Persona MATH": (149_960, 149_960),
    "Tulu 3 Persona GSM": (49_980, 49_980),
    "Tulu 3 Persona Algebra": (20_000, 50_000),
    "OpenMathInstruct 2": (50_000, 2_570_505),
    "NuminaMath-TIR": (64_312, 64_312),
    "Tulu 3 Persona Python": (34_999, 34_998),
    "Evol CodeAlpaca": (107_276, 107_276),
    "Tulu 3 CoCoNot": (10_983, 10_983),
    "Tulu 3 WildJailbreak": (50_000, 178_344),
    "Tulu 3 WildGuardMix": (50_000, 85_090),
    "Aya": (100_000, 190_320),
    "Tulu 3 Persona IF": (29_980, 29_962),
}
# As printed under the columns: in the mixture, in the unfiltered pool.
PRINTED_TOTALS = {"Tulu 2": (326_153, TULU2_POOL), "Tulu 3": (939_344, TULU3_POOL)}
_TULU2_NOTE = "Tulu 2: the mixture column sums to 326,154, one more than the total that the paper prints."

_EARLIER_POOLS = {
    "Xia et al. 2024": {
        "FLAN V2": 100_000, "FLAN CoT": 100_000, "Dolly": 15_011, "Open Assistant": 55_668,
    },
    "Chen et al. 2024": {"Alpaca": 52_002},
    "Li et al. 2024b": {"Alpaca": 52_002},
}  # fmt: skip

_ABLATION = {"rds": 46.4, "rds_eos": 45.4, "rds_uniform": 45.8, "rds_prompt": 43.2, "rds_label": 45.1}

SCORE_COLUMNS = ["score", "low", "high", "n", "metric", "better", "note", "source"]
FIG1_COLUMNS = ["origin", "method", "pool_size", "budget", "flops", *SCORE_COLUMNS]
SCALING_COLUMNS = ["origin", "method", "budget", "pool_size", "percent", "flops", *SCORE_COLUMNS]
TABLE_COLUMNS = ["origin", "method", "task", "pool_size", "budget", *SCORE_COLUMNS]
ABLATION_COLUMNS = ["origin", "method", "pool_size", "budget", *SCORE_COLUMNS]


def fig1() -> pd.DataFrame:
    """Figure 1: 10,000 selected for one task at a time from 200k and from 5.8M, mean of seven tasks.

    Columns FIG1_COLUMNS, a row a method and pool; `flops` by the cost model, `score` in percent.
    """
    rows = []
    for method, scores in _FIG1.items():
        for pool_size, score in zip((SMALL_POOL, TULU2_POOL), scores, strict=True):
            row = {"method": method, "pool_size": pool_size, "budget": 10_000, **_score(score, "ref")}
            row["flops"] = _total_flops(method, 10_000, pool_size)
            if math.isnan(score):
                row |= {"note": "not run", "source": ""}
            rows.append(row)
    return _tidy(rows, FIG1_COLUMNS)


def tab1_single_task() -> pd.DataFrame:
    """Table 1: the scores of `fig1`, which are its averages; the scores by task are not public.

    Columns TABLE_COLUMNS, a row a method and pool; `task` is always AVERAGE.
    """
    return fig1().assign(task=AVERAGE)[TABLE_COLUMNS]


def fig4() -> pd.DataFrame:
    """Figure 4: mean of seven tasks against the samples selected from 5.8M, one model for all tasks.

    Columns SCALING_COLUMNS, a row a method and budget; `percent` of the pool, `score` in percent.
    """
    rows = []
    for column, method in ((1, "rds"), (2, "random_balanced")):
        for point in _FIG4:
            budget = point[0]
            row = {"method": method, "budget": budget, "pool_size": TULU2_POOL}
            row |= _score(point[column], "fig")
            row["percent"] = 100 * budget / TULU2_POOL
            row["flops"] = _total_flops(method, budget, TULU2_POOL)
            rows.append(row)
    return _tidy(rows, SCALING_COLUMNS)


def fig3() -> pd.DataFrame:
    """Figure 3: the points of Figure 4, to be drawn against their cost; the same columns."""
    return fig4()


def tab2_multi_task() -> pd.DataFrame:
    """Table 2: 326k selected from the Tulu 2 pool for all tasks at once, Llama-2-7B.

    Columns TABLE_COLUMNS, a row a method and task (and the average over the tasks), in percent.
    """
    return _table(_TABLE2, TULU2_POOL, 326_000)


def tab3_second_pool() -> pd.DataFrame:
    """Table 3: 939k selected from the Tulu 3 pool for all tasks at once, Llama-3.1-8B.

    The columns of `tab2_multi_task`. Tulu 3 SFT is the authors' released mixture, not a selection.
    """
    return _table(_TABLE3, TULU3_POOL, 939_000)


def tab4_splits() -> pd.DataFrame:
    """Table 4: columns origin, task, query, test (sample counts), note, source."""
    rows = [
        {"task": task, "query": query, "test": test, "note": "", "source": "review"}
        for task, (query, test) in _SPLITS.items()
    ]
    return _tidy(rows, ["origin", "task", "query", "test", "note", "source"])


def tab5_pool_sources() -> pd.DataFrame:
    """Table 5 and its Tulu 3 twin: samples of each source in the released mixture and in the pool.

    Columns origin, pool, source, in_mixture, count, note, provenance; a row a pool and source.
    """
    rows = [
        {
            "pool": pool, "source": source, "in_mixture": mixture, "count": count,
            "note": _TULU2_NOTE if pool == "Tulu 2" else "", "provenance": "review",
        }
        for pool, sources in (("Tulu 2", _TULU2), ("Tulu 3", _TULU3))
        for source, (mixture, count) in sources.items()
    ]  # fmt: skip
    return _tidy(rows, ["origin", "pool", "source", "in_mixture", "count", "note", "provenance"])


def fig2() -> pd.DataFrame:
    """Figure 2: columns origin, pool, source, count, provenance; the paper's pools and earlier ones."""
    ours = tab5_pool_sources()[["pool", "source", "count", "provenance"]]
    ours["pool"] = "Unfiltered " + ours["pool"]
    rows: list[dict[str, object]] = [
        {"pool": pool, "source": source, "count": count, "provenance": "cited"}
        for pool, sources in _EARLIER_POOLS.items()
        for source, count in sources.items()
    ]
    table = pd.concat([ours, pd.DataFrame(rows)], ignore_index=True)
    table.insert(0, "origin", ORIGIN)
    return table


def tab6_rds_ablation() -> pd.DataFrame:
    """Table 6: what RDS+ pools over; columns ABLATION_COLUMNS, a row a variant, `score` in percent."""
    rows = [
        {"method": method, "pool_size": SMALL_POOL, "budget": 10_000, **_score(score, "review")}
        for method, score in _ABLATION.items()
    ]
    return _tidy(rows, ABLATION_COLUMNS)


def _total_flops(method: str, samples: int, pool_size: int) -> float:
    """FLOPs of selecting `samples` of a pool and fine-tuning on them, by the paper's formulas."""
    return training_flops(samples) + get_scorer(method).paper_flops(pool_size, samples, PAPER)


def _score(value: float, source: str) -> dict[str, object]:
    """The columns SCORE_COLUMNS of a mean over the seven tasks; the paper gives no intervals."""
    return {
        "score": value, "low": NAN, "high": NAN, "n": sum(test for _, test in _SPLITS.values()),
        "metric": SCORE, "better": "higher", "note": "", "source": source,
    }  # fmt: skip


def _table(scores: dict[str, tuple[float, ...]], pool_size: int, budget: int) -> pd.DataFrame:
    rows = []
    for method, values in scores.items():
        # A card gives every task of its model; an average beside unknown tasks is from the code.
        average_source = "ref" if any(math.isnan(value) for value in values[:-1]) else "card"
        for task, value in zip((*TASKS, AVERAGE), values, strict=True):
            row = {"method": method, "task": task, "pool_size": pool_size, "budget": budget}
            row |= _score(value, average_source if task == AVERAGE else "card")
            if task != AVERAGE:
                row |= {"n": _SPLITS[task][1], "metric": "score"}
            if math.isnan(value):
                row |= {"note": NOT_PUBLISHED, "source": ""}
            rows.append(row)
    return _tidy(rows, TABLE_COLUMNS)


def _tidy(rows: list[dict[str, object]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame([{"origin": ORIGIN, **row} for row in rows], columns=columns)
