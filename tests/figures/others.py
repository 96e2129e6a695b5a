"""Gather an independent study's numbers into small CSVs: `python -m tests.figures.others`.

The study is Nayak, Rodriguez-Diaz, Hulkund, Beery and Alvarez-Melis, *A Critical Look at Targeted Instruction
Selection* (2026, arXiv 2602.14696); its tables are Apache-2.0 and are fetched from GitHub (or the mirror of
RDSLIB_MIRROR) by the commit below and the checksums of `others.sha256`. Written are `others.csv`, the mean
over tasks of each run, and `others_quantiles.csv`, how the loss of a model goes with the tenth of the pool
that it was trained on.
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from rdslib.data.archives import Archives
from rdslib.data.download import cache_dir
from rdslib.figures.base import PUBLISHED
from rdslib.params import Download, read_pins

REPOSITORY = "dcml-lab/targeted-instruction-selection@c1dc0286b06b9e2a857d925e516938f4c9619dc2"
PINS = Path(__file__).with_suffix(".sha256")
POOLS = {"plot_data": "Tulu 2", "dolci_plot_data": "Dolci"}
MODELS = {
    "llama2-7b": "Llama-2-7B",
    "llama3.2-3b": "Llama-3.2-3B",
    "qwen3-4b-base": "Qwen3-4B",
    "smollm3-3b-base": "SmolLM3-3B",
    "olmo3-7b": "Olmo-3-7B",
}
METHODS = {"Random": "random", "LESS (RR)": "less", "EMBED (RR)": "embed_gtr", "RDS+ (RR)": "rds"}


def tables() -> dict[str, pd.DataFrame]:
    """Fetch the study's tables, by their paths below `assets/`."""
    download = Download(uri=f"github:{REPOSITORY}/assets/", files=read_pins(PINS))
    found = Archives({"others": download}, cache_dir()).members("others", ["*"])
    return {path: pd.read_csv(io.BytesIO(data)) for path, data in found.items()}


def scores(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean over tasks of each run, and of each model before any fine-tuning (budget 0, no seed)."""
    parts = []
    for folder, pool in POOLS.items():
        for key, model in MODELS.items():
            before, runs = (
                found[f"{folder}/quantile_budget/{key}/budget_true_metric_{kind}.csv"]
                for kind in ("zero_shot", "budget")
            )
            runs = runs[runs["method"].isin(METHODS)].rename(columns={"num_samples": "budget"})
            runs = runs.assign(method=pd.Categorical(runs["method"].map(METHODS), METHODS.values()))
            means = runs.groupby(["method", "budget", "seed"], observed=True)["true_metric"]
            rows = means.agg(score="mean", tasks="size").reset_index().astype({"method": str})
            untuned = {"method": "untuned", "budget": 0, "score": before["true_metric"].mean()}
            rows = pd.concat([pd.DataFrame([{**untuned, "tasks": len(before)}]), rows], ignore_index=True)
            parts.append(rows.assign(pool=pool, model=model, source="tis"))
    columns = ["pool", "model", "method", "budget", "seed", "score", "tasks", "source"]
    return pd.concat(parts, ignore_index=True)[columns].astype({"seed": "Int64"})


def quantiles(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Spearman's correlation of the tenth, nearest first, with the loss on queries and on test samples."""
    rows = []
    for folder, pool in POOLS.items():
        for key, model in MODELS.items():
            losses = found[f"{folder}/quantile_budget/{key}/binning_ce_loss_quantile.csv"]
            for (task, method), part in losses.groupby(["dataset", "method"], sort=True):
                ranks = part[["bin", "dev", "test"]].rank().corr()["bin"]
                of = {"pool": pool, "model": model, "task": task, "method": METHODS[str(method)]}
                rows.append({**of, "queries": ranks["dev"], "test": ranks["test"], "source": "tis"})
    return pd.DataFrame(rows)


def write(folder: Path = PUBLISHED) -> None:
    """Write both CSVs into a folder."""
    found = tables()
    for name, rows in {"others": scores(found), "others_quantiles": quantiles(found)}.items():
        rows.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f", lineterminator="\n")


if __name__ == "__main__":
    write()
