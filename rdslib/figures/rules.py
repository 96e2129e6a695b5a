"""The rules by which claims are judged, written down before the study was run; the guide has the same."""

from __future__ import annotations

from typing import NamedTuple

RULE = (
    "Each comparison has a margin, which is above 0 if the claim is right, and a 95% interval of it. Of "
    "scores, the interval is over test samples and seeds together: test samples are resampled, alike for "
    "all that is compared, and to each resample is added the error of a mean over m seeds (none of one), s "
    "/ sqrt(m) times a draw of Student's t with m - 1 degrees of freedom, where s is the spread of that "
    "margin between seeds, paired by seed. (Three seeds, resampled, would cover the truth three times in "
    "four at best.) Of picks, the claim says what is resampled. The p of a margin is twice the share of "
    "draws on the other side of 0, corrected by Holm over the claim's comparisons. A claim holds if all its"
    " comparisons were run and every margin is above 0 with p under 0.05; it does not hold if any margin is"
    " below 0 with p under 0.05; otherwise it cannot be told. Nor can it where a premise, a margin without "
    "which the claim means nothing, is not above 0 with p under 0.05 by itself. No verdict rests on runs "
    "of a single seed: their margins count as not told. A claim without any comparison that was run is "
    "not run."
)


class Claim(NamedTuple):
    """What is claimed, by whom, and which margins it is judged by."""

    says: str
    by: str
    margins: str


PAPER, STUDY = "the paper", "the study of 2026"
# Written before any method but random was run in the profile `lab`.
CLAIMS = {
    "beats_random": Claim(
        "RDS+ beats random",
        PAPER,
        "One task at a time, from the whole pool: how much better RDS+ scores than balanced random.",
    ),
    "beats_all": Claim(
        "RDS+ beats every other method",
        PAPER,
        "One task at a time, from each pool: how much better RDS+ scores than each other method of the "
        "paper's Table 1 that was run from it (MiniLM stands for its embeddings).",
    ),
    "budget": Claim(
        "The gain of RDS+ grows as the budget shrinks",
        PAPER,
        "One model for all tasks: by how much RDS+'s gain over balanced random grows with each halving of "
        "the budget, by least squares over all budgets below the whole pool.",
    ),
    "pool_rds": Claim(
        "RDS+ gains from a larger pool",
        PAPER,
        "One task at a time: how much better RDS+ scores from the whole pool than from the smallest one.",
    ),
    "pool_others": Claim(
        "Most other methods do not gain from a larger pool",
        PAPER,
        "The same gain of each other method of Table 1, random ones too, that was run from both pools; of "
        "three or more, how far their median lies below 0.",
    ),
    "frontier": Claim(
        "RDS+ lies on the cost frontier",
        PAPER,
        "One task at a time: how much better RDS+ scores from the whole pool than each run of a method of "
        "Table 1, from either pool, that costs no more FLOPs (as measured).",
    ),
    "pooling": Claim(
        "The weighted mean beats the other poolings",
        PAPER,
        "One task at a time: how much better RDS+ scores than with the EOS token alone, and with a uniform "
        "mean.",
    ),
    "task_scores": Claim(
        "AlpacaEval's scores lie lower than GSM8k's",
        PAPER,
        "How far the mean score of what RDS+ selects for AlpacaEval lies below that for GSM8k; the interval"
        " resamples queries, each with its picks.",
    ),
    "sources": Claim(
        "IFD and Top-PPL lean to single sources",
        PAPER,
        "For each of the two at each budget of Figure 7: by how much the share of the source with most "
        "picks exceeds both one half and that source's share of the pool; the interval resamples picks.",
    ),
    "proxies": Claim(
        "Cheaper models select nearly as well",
        PAPER,
        "Premise: the margin of `beats_random`, from the same pool. For each method that looks at queries "
        "with a model, and costs less than RDS+ (ablations aside), from the largest pool that it has with "
        "RDS+ and balanced random: its gain over balanced random minus half of RDS+'s.",
    ),
    "gradients": Claim(
        "Gradients predict better than states",
        STUDY,
        "In the quantile experiment: the rank correlation of a tenth's distance from the queries with the "
        "loss on test samples after training on it, mean over tasks, of LESS minus that of RDS+.",
    ),
    "less": Claim(
        "LESS beats RDS+",
        STUDY,
        "One task at a time, from each pool that LESS was run from: how much better LESS scores than RDS+.",
    ),
    "vanish": Claim(
        "Gains vanish at larger budgets",
        STUDY,
        "One model for all tasks. Premise: at the smallest budget RDS+ gains over balanced random. Then: "
        "that gain minus twice the gain at the largest budget below the whole pool, so that less than half "
        "is left.",
    ),
}
