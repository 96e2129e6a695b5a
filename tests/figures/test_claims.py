"""Claims: the rules as they are written down, their margins, and the verdicts by them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.evaluation.bootstrap import holm, over_seeds
from rdslib.figures import FIGURES, claims, draw, evidence, key_numbers
from rdslib.figures.base import BASELINE, RDS, published
from rdslib.figures.rules import CLAIMS, RULE

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "reproduce.md"
TIMES = 400


def test_the_guide_has_the_rules():
    text = GUIDE.read_text()
    assert RULE in " ".join(text.split())
    for name, claim in CLAIMS.items():
        assert f"| {claim.says} (`{name}`) | {claim.by} | {claim.margins} |" in text
    assert list(claims.MARGINS) == list(CLAIMS)


# Made-up evidence: what is given is each score, around which seeds and resamples vary a little.


def scores(value, seeds=3, noise=0.001):
    rng = np.random.default_rng(int(1000 * abs(value)))
    rows = value + noise * rng.standard_normal((seeds, 1)) + noise * rng.standard_normal((seeds, 1 + TIMES))
    return pd.DataFrame(rows, index=range(seeds))


def made_up(single=None, multi=None, ablation=None, flops=None, **others):
    made = {
        name: {key: scores(value) for key, value in (given or {}).items()}
        for name, given in (("single", single), ("multi", multi), ("ablation", ablation))
    }
    return evidence.Evidence(
        estimate=lambda rows: over_seeds(rows.to_numpy(), 0),
        unit=evidence.BITS,
        n=100,
        whole=2000,
        flops=flops or dict.fromkeys(single or {}, 1.0),
        **made,
        **others,
    )


def judge(name, e):
    rows = claims.judged(e)
    return claims.verdict(rows[rows["claim"] == name])


LARGE, SMALL = 2000.0, 400.0
LESS = SMALL, "less"
CASES = [
    ("beats_random", "holds", {"single": {(LARGE, RDS): 1.1, (LARGE, BASELINE): 1.0}}),
    ("beats_random", "does not hold", {"single": {(LARGE, RDS): 0.9, (LARGE, BASELINE): 1.0}}),
    ("beats_random", "cannot tell", {"single": {(LARGE, RDS): 1.0, (LARGE, BASELINE): 1.002}}),
    ("beats_random", "not run", {"single": {(LARGE, RDS): 1.1}}),
    # Of what is asked for not all was run.
    ("beats_all", "cannot tell", {"single": {(LARGE, RDS): 1.1, (LARGE, "ifd"): 1.0}, "asked": [LESS]}),
    ("frontier", "cannot tell", {"single": {(LARGE, RDS): 1.1, (LARGE, "ifd"): 1.0}, "asked": [LESS]}),
    ("beats_random", "not run", {"single": {(LARGE, RDS): 1.1, (SMALL, RDS): 1.1, (SMALL, BASELINE): 1.0}}),
    ("beats_all", "holds", {"single": {(LARGE, RDS): 1.1, (LARGE, "ifd"): 1.0, (LARGE, "less"): 0.9}}),
    ("beats_all", "does not hold", {"single": {(LARGE, RDS): 1.1, (LARGE, "less"): 1.2}}),
    ("beats_all", "cannot tell", {"single": {(LARGE, RDS): 1.1, (LARGE, "ifd"): 1.0, (LARGE, "less"): 1.1}}),
    # Methods that the paper has not are not judged.
    ("beats_all", "holds", {"single": {(LARGE, RDS): 1.1, (LARGE, "ifd"): 1.0, (LARGE, "rds_eos"): 1.2}}),
    # From the small pool RDS+ was not run: what is left cannot be enough.
    ("beats_all", "cannot tell", {"single": {(LARGE, RDS): 1.1, (LARGE, "ifd"): 1.0, (SMALL, "ifd"): 1.0}}),
    ("pool_rds", "holds", {"single": {(LARGE, RDS): 1.1, (SMALL, RDS): 1.0}}),
    ("pool_rds", "not run", {"single": {(LARGE, RDS): 1.1}}),
    ("pooling", "holds", {"ablation": {RDS: 1.1, "rds_eos": 1.0, "rds_uniform": 1.05}}),
    ("pooling", "does not hold", {"ablation": {RDS: 1.1, "rds_eos": 1.2}}),
    ("pooling", "cannot tell", {"ablation": {RDS: 1.1, "rds_eos": 1.0}}),
    ("pooling", "not run", {"ablation": {RDS: 1.1}}),
    ("less", "holds", {"single": {(SMALL, RDS): 1.0, (SMALL, "less"): 1.1}}),
    ("less", "not run", {"single": {(SMALL, RDS): 1.0}}),
    ("gradients", "not run", {}),
    ("gradients", "holds", {"quantiles": {"less": scores(0.8), RDS: scores(0.1)}}),
    ("task_scores", "holds", {"task_scores": {"GSM8k": scores(0.8), "AlpacaEval": scores(0.7)}}),
    ("task_scores", "not run", {"task_scores": {"GSM8k": scores(0.8), "Squad": scores(0.7)}}),
    ("sources", "holds", {"excess": {("ifd", 32): scores(0.2), ("top_ppl", 32): scores(0.1)}}),
    ("sources", "does not hold", {"excess": {("ifd", 32): scores(-0.2), ("top_ppl", 32): scores(0.1)}}),
    ("sources", "not run", {"excess": {("rds", 32): scores(0.2)}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected", "given"), CASES)
def test_verdicts(name, expected, given):
    assert judge(name, made_up(**given)) == expected


def of_budgets(*found):
    """Scores of RDS+ that exceed balanced random's by what is given, from the smallest budget up."""
    multi = {}
    for place, gain in enumerate(found):
        multi[32 * 4**place, RDS], multi[32 * 4**place, BASELINE] = 1 + gain, 1.0
    return made_up(multi={**multi, (2000, RDS): 3.0, (2000, BASELINE): 1.0})


@pytest.mark.parametrize(
    ("gains", "grows", "vanishes"),
    [
        ((0.3, 0.2, 0.1), "holds", "holds"),
        ((0.3, 0.25, 0.2), "holds", "does not hold"),
        ((0.1, 0.2, 0.3), "does not hold", "does not hold"),
        ((-0.1, 0.2, 0.3), "does not hold", "cannot tell"),
        ((0.2, 0.2, 0.1), "holds", "cannot tell"),
        ((0.1,), "not run", "not run"),
    ],
)  # fmt: skip
def test_budgets_below_the_whole_pool_are_judged(gains, grows, vanishes):
    e = of_budgets(*gains)
    assert judge("budget", e) == grows
    assert judge("vanish", e) == vanishes


def test_others_are_judged_by_their_median():
    def e(*changes):
        methods = ["random", "ifd", "top_ppl", "mid_ppl"][: len(changes)]
        pairs = zip(methods, changes, strict=True)
        single = {key: 1.0 for method in methods for key in [(SMALL, method)]}
        single |= {(LARGE, method): 1 + change for method, change in pairs}
        return made_up({**single, (SMALL, RDS): 1.0, (LARGE, RDS): 1.2})

    assert judge("pool_others", e(-0.1, -0.2, 0.5)) == "holds"
    assert judge("pool_others", e(0.1, 0.2, -0.5)) == "does not hold"
    assert judge("pool_others", e(0.1, -0.1001, 0.1, -0.1)) == "cannot tell"
    assert judge("pool_others", e(-0.1, -0.2)) == "not run"


def test_dearer_runs_do_not_count_at_the_frontier():
    single = {(LARGE, RDS): 1.1, (SMALL, RDS): 1.0, (SMALL, "less"): 1.3, (LARGE, "random"): 1.0}
    flops = {(LARGE, RDS): 5.0, (SMALL, RDS): 2.0, (SMALL, "less"): 9.0, (LARGE, "random"): 1.0}
    assert judge("frontier", made_up(single, flops=flops)) == "holds"
    assert judge("frontier", made_up(single, flops={**flops, (SMALL, "less"): 5.0})) == "does not hold"


@pytest.mark.parametrize(("proxy", "rds", "expected"), [
    (1.08, 1.1, "holds"), (1.02, 1.1, "does not hold"), (1.2, 0.9, "cannot tell"), (1.0, 1.0, "cannot tell"),
])  # fmt: skip
def test_proxies_keep_more_than_half_of_a_gain_that_there_is(proxy, rds, expected):
    single = {(LARGE, RDS): rds, (LARGE, BASELINE): 1.0, (LARGE, "embed_minilm"): proxy, (LARGE, "less"): 0.5}
    flops = {(LARGE, RDS): 5.0, (LARGE, BASELINE): 1.0, (LARGE, "embed_minilm"): 2.0, (LARGE, "less"): 9.0}
    assert judge("proxies", made_up(single, flops=flops)) == expected
    # What costs nothing to select with looks at no model.
    assert judge("proxies", made_up(single, flops={**flops, (LARGE, "embed_minilm"): 1.0})) == "not run"


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from([-1.0, 1.0, math.nan]), st.sampled_from([0.001, 0.02, 0.2]),
                               st.booleans()), max_size=6))  # fmt: skip
def test_a_verdict_follows_from_margins_and_p(rows):
    table = pd.DataFrame(rows, columns=["margin", "p", "premise"]).astype({"premise": bool}).assign(units=3)
    found = claims.verdict(table)
    own = [(margin, p) for margin, p, premise in rows if not premise]
    run = [(margin, p) for margin, p in own if not math.isnan(margin)]
    corrected = holm([p for _, p in run]) if run else []
    told = [margin if p < 0.05 else 0 for (margin, _), p in zip(run, corrected, strict=True)]
    if not run:
        assert found == "not run"
    elif any(premise and not (margin > 0 and p < 0.05) for margin, p, premise in rows):
        assert found == "cannot tell"
    elif -1 in told:
        assert found == "does not hold"
    else:
        assert found == ("holds" if told == [1] * len(own) else "cannot tell")
    alone = claims.verdict(table.assign(units=1))
    assert alone == ("cannot tell" if run else "not run")


def test_seeds_that_one_side_has_not_are_left_out():
    found = claims.minus({"a": scores(1.0, 3), "b": scores(0.9, 2)}, "a", "b")
    assert found.index.tolist() == [0, 1]


# The paper's and others' numbers.


def margins(origin, name):
    table = FIGURES["claims"].published()
    found = table[(table["origin"] == origin) & (table["claim"] == name) & ~table["premise"]]
    return dict(zip(found["of"], found["margin"], strict=True))


def test_the_papers_margins_are_those_of_its_tables():
    fig1 = published("fig1").set_index(["method", "pool_size"])["score"]
    large, small = 5_817_792, 200_000
    assert margins("published", "beats_random") == {"from 5.8M": pytest.approx(50.5 - 41.1)}
    assert len(margins("published", "beats_all")) == 15
    assert min(margins("published", "beats_all").values()) == pytest.approx(
        fig1["rds", small] - fig1["less", small]
    )
    others = [fig1[each, large] - fig1[each, small] for each in set(fig1.index.levels[0]) - {"rds", "less"}]
    assert margins("published", "pool_others") == {"median of 7": pytest.approx(-np.median(others))}
    # As dear as RDS+ from 5.8M counts, and so does RDS+ itself from 200k.
    assert {"Top-PPL from 5.8M", "RDS+ from 200k", "LESS from 200k"} < set(margins("published", "frontier"))
    assert "IFD from 5.8M" not in margins("published", "frontier")
    fig4 = published("fig4").pivot(index="budget", columns="method", values="score").iloc[:-1]
    gain = fig4["rds"] - fig4["random_balanced"]
    slope = np.polyfit(np.log2(fig4.index), gain, 1)[0]
    assert list(margins("published", "budget").values()) == [pytest.approx(-slope)]
    assert margins("published", "vanish") == {"10k and 2.5M": pytest.approx(gain.iloc[0] - 2 * gain.iloc[-1])}
    assert margins("published", "proxies") == {"Embed (GTR) from 5.8M": pytest.approx(5.3 - 9.4 / 2)}


def test_others_margins_equal_a_naive_computation():
    rows = pd.read_csv(evidence.sources.base.PUBLISHED / "others.csv")
    rows = rows[rows["budget"] > 0].groupby(["method", "model", "budget"])["score"].mean()
    gain = (rows["less"] - rows["rds"]).groupby("model").mean()
    assert list(margins("others", "less").values()) == [pytest.approx(gain.mean())]
    by_budget = (rows["rds"] - rows["random"]).unstack()
    slopes = [np.polyfit(np.log2([*by_budget]), by_budget.loc[model], 1)[0] for model in by_budget.index]
    assert list(margins("others", "budget").values()) == [pytest.approx(-np.mean(slopes))]
    table = FIGURES["claims"].published()
    assert set(table.loc[table["origin"] == "others", "units"]) == {5}


# The table.


def test_the_table_says_which_is_which_and_has_the_rules():
    table = FIGURES["claims"].published()
    e = made_up({(LARGE, RDS): 1.1, (LARGE, BASELINE): 1.0, (LARGE, "less"): 1.2})
    rows = claims.judged(e).assign(origin="measured", verdict="made up")
    drawn = draw("claims", pd.concat([table, rows], ignore_index=True))
    (part,) = drawn.parts
    assert [cell.text for cell in part.header[1:4]] == [
        "Published in the paper", "Published by others", "Measured here",
    ]  # fmt: skip
    shown = {row[0].text: row for row in part.rows}
    assert list(shown) == [claim.says for claim in CLAIMS.values()]
    row = shown["RDS+ beats every other method"]
    assert row[1].text == "+2.2 points"
    assert row[1].small == "least of 15: LESS from 200k"
    assert row[3].text.startswith("\N{MINUS SIGN}0.09") or row[3].text.startswith("\N{MINUS SIGN}0.10")
    assert row[3].small.endswith("least of 2: LESS from 2k")
    assert row[4].text == "made up"
    text = " ".join(drawn.markdown().split())
    assert all(claim.margins.split("`")[0].split("(")[0][:60] in text for claim in CLAIMS.values())
    alone = draw("claims", table)
    assert {row[4].text for row in alone.parts[0].rows} == {"not run"}


def test_key_numbers_have_every_comparison():
    table = FIGURES["claims"].published()
    found = key_numbers(table)
    assert len(found) == len(table)
    assert set(found["origin"]) == {"published", "others"}
    assert (found["comparison"].str.contains("premise")).sum() == table["premise"].sum()


@pytest.mark.parametrize("name", CLAIMS)
def test_a_study_without_rds_so_far_has_run_nothing_of_a_claim(name):
    assert judge(name, made_up({(LARGE, "random"): 1.0, (LARGE, "random_balanced"): 1.0})) == "not run"
