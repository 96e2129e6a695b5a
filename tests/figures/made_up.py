"""Tidy tables that are made up to test drawing, and say so in their notes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

SYNTHETIC = "SYNTHETIC: made up to test the drawing"
METHODS = ("random", "random_balanced", "top_ppl", "mid_ppl", "ifd", "less", "embed_minilm", "rds")


def both(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([left, right], ignore_index=True)


def made_up_scores(
    methods: tuple[str, ...], pools: tuple[int, ...], budgets: tuple[int, ...], seed: int = 0
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
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


def made_up_selections(
    names: tuple[str, ...] = ("Random", "MMLU", "GSM8k", "Round-robin"), seed: int = 2
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        {"origin": "measured", "selection": name, "source": source, "count": int(rng.integers(0, 90)) + 1}
        for name in names
        for source in ("FLAN V2", "made_up_one", "$made_up_two$", "Open Orca")
    ]
    return pd.DataFrame(rows)


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
    table["diff_vs_rds"] = [math.nan, 0.01, -0.01, 0.03, math.nan]
    table["diff_vs_rds_low"] = table["diff_vs_rds"] - 0.004
    table["diff_vs_rds_high"] = table["diff_vs_rds"] + 0.005
    return table


def made_up_sources() -> pd.DataFrame:
    """Figure 7: sources that a method did not pick from have no row; LESS had a smaller pool."""
    rng = np.random.default_rng(4)
    rows = [
        {
            "origin": "measured", "method": method, "pool_size": 600 if method == "less" else 2000,
            "budget": budget, "source": source, "count": count, "note": SYNTHETIC,
        }
        for method in ("a_plug_in_method", *METHODS[::-1])
        for budget in (320, 32)
        for source, count in zip(
            ("made_up_one", "FLAN V2", "made_up_two", "Open Orca"),
            rng.multinomial(budget, rng.dirichlet((0.3, 1, 1, 1))),
            strict=True,
        )
        if count
    ]  # fmt: skip
    return pd.DataFrame(rows)


# Two sources are under 1% of every pool.
POOLS = pd.DataFrame(
    [
        {"origin": "measured", "pool": pool, "source": source, "count": count}
        for pool, counts in {"all": (900, 500, 9, 8, 75), "half": (450, 250, 4, 4, 42)}.items()
        for source, count in zip(("sums", "facts", "odd_one", "other_odd_one", "poems"), counts, strict=True)
    ]
)


def made_up_seeds(seeds: tuple[int, ...] = (1, 2, 3)) -> pd.DataFrame:
    """Differences from balanced random by seed, and their means with intervals, in both settings."""
    rng = np.random.default_rng(5)
    places = [("One task at a time", pool, 32, method) for pool in (600, 2000) for method in METHODS
              if method != "random_balanced"]  # fmt: skip
    places += [("all tasks together", 2000, budget, "rds") for budget in (32, 64, 256)]
    rows = []
    for setting, pool, budget, method in places:
        of = {"origin": "measured", "setting": setting, "pool_size": pool, "budget": budget, "method": method,
              "metric": "bits per byte", "better": "lower", "note": SYNTHETIC}  # fmt: skip
        gaps = rng.normal(-0.02, 0.02, len(seeds))
        rows.append({**of, "seed": "all", "difference": gaps.mean(), "low": gaps.min() - 0.02,
                     "high": gaps.max() + 0.02, "p": 0.02})  # fmt: skip
        rows += [{**of, "seed": str(seed), "difference": gap} for seed, gap in zip(seeds, gaps, strict=True)]
    return pd.DataFrame(rows)


def made_up_quantiles(origins: tuple[str, ...] = ("others", "measured")) -> pd.DataFrame:
    """Losses by part and rank correlations as measured, and rank correlations as others published them."""
    rng = np.random.default_rng(6)
    rows: list[dict[str, object]] = []
    for method, rise in (("rds", 0.01), ("less", 0.02), ("embed_minilm", 0.0)):
        for side in ("test", "queries"):
            of = {"method": method, "of": side, "note": SYNTHETIC}
            ours = {**of, "origin": "measured", "metric": "bits per byte", "n": 2}
            for part in range(1, 11):
                score = 0.9 + rise * part + rng.normal(0, 0.01)
                rows.append({**ours, "kind": "loss", "part": part, "score": score, "low": score - 0.03,
                             "high": score + 0.03})  # fmt: skip
            rows.append({**ours, "kind": "rank correlation", "score": 40 * rise, "low": -0.1, "high": 0.9})
            theirs = {
                **of,
                "origin": "others",
                "kind": "rank correlation",
                "metric": "rank correlation",
                "n": 1,
            }
            rows += [{**theirs, "pool": pool, "model": model, "score": rng.uniform(-1, 1)}
                     for pool in ("A", "B") for model in ("M", "N")]  # fmt: skip
    table = pd.DataFrame(rows)
    return table[table["origin"].isin(origins)].reset_index(drop=True)
