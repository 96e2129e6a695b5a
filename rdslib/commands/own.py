"""The commands for one's own data: `rds select`, `plan`, `explain` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rdslib.errors import UserError

# The options that `select` and `plan` share.
_POOL = typer.Option(help="What to choose from: a file of JSONL, JSON, Parquet or CSV, a folder, a hub name.")
_MODEL = typer.Option(help="The language model: a folder, a hub name or a GGUF file.")
_K = typer.Option("-k", help="How many samples to choose, or which percent: 1000, 5%.")
Queries = Annotated[str | None, typer.Option(help="Samples, or prompts alone, of what the model should do.")]
Method = Annotated[
    str, typer.Option(help="How to choose: rds, less, embed_gtr, top_ppl, ifd, random_balanced, ...")
]
Form = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="The pool's form, if its fields do not tell: messages, sharegpt, alpaca, prompt_completion.",
    ),
]
OnError = Annotated[
    Literal["stop", "quarantine"], typer.Option(help="At a bad row: stop, or leave it out and say so.")
]
Dedup = Annotated[
    Literal["none", "exact", "near"], typer.Option(help="Which duplicates to leave out of the pool.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="A test set, whose words in samples (13 in a row) leave them out; repeatable."),
]
Balance = Annotated[
    bool, typer.Option("--balance-sources", help="As many samples of each source as there can be.")
]
Most = Annotated[int | None, typer.Option(min=1, help="At most so many samples of a source.")]
ProfileName = Annotated[
    str | None, typer.Option(help="A profile whose parameters and plugins to use; else the paper's.")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default the first GPU, if there is one.")
]
Engine = Annotated[Literal["local", "ray"], typer.Option(help="Where features and scores are computed.")]
Seed = Annotated[int, typer.Option(help="For what is random in a method.")]


def select(
    pool: Annotated[str, _POOL],
    model: Annotated[str, _MODEL],
    k: Annotated[str, _K],
    out: Annotated[Path, typer.Option(help="The .jsonl, .jsonl.gz or .parquet file to write.")],
    queries: Queries = None,
    method: Method = "rds",
    form: Form = None,
    as_form: Annotated[
        Literal["own", "messages"],
        typer.Option("--as", help="Rows as they came, or with messages for what held the sample."),
    ] = "own",
    on_error: OnError = "stop",
    dedup: Dedup = "none",
    exclude: Exclude = None,
    balance_sources: Balance = False,
    max_per_source: Most = None,
    profile: ProfileName = None,
    device: Device = None,
    engine: Engine = "local",
    resume: Annotated[
        bool, typer.Option(help="Go on from what an earlier run of the same selection has left.")
    ] = True,
    seed: Seed = 42,
) -> None:
    """Choose the K best samples of a pool: by RDS+, those nearest to your queries.

    The output has the pool's own rows, in the order of picking, each with rds_score, rds_rank and, for
    methods with queries, rds_task and rds_query (the number of the query, from 0, that chose it). Queries
    with a field "task" take turns by task. What was computed is kept: a selection that was stopped goes on,
    and another K of the same pool costs nothing.
    """
    from rdslib.commands.output import select_own
    from rdslib.commands.own_pool import Request

    _choose(device)
    request = Request(
        pool, model, k, queries, method, form, on_error, dedup, tuple(exclude or ()), balance_sources,
        max_per_source, profile, engine, seed,
    )  # fmt: skip
    typer.echo(select_own(request, out, as_form, resume))


def plan(
    pool: Annotated[str | None, _POOL] = None,
    model: Annotated[str | None, _MODEL] = None,
    k: Annotated[str | None, _K] = None,
    queries: Queries = None,
    method: Method = "rds",
    form: Form = None,
    on_error: OnError = "stop",
    dedup: Dedup = "none",
    exclude: Exclude = None,
    balance_sources: Balance = False,
    max_per_source: Most = None,
    profile: ProfileName = None,
    device: Device = None,
    engine: Engine = "local",
    seed: Seed = 42,
) -> None:
    """Say what a selection will cost, before anything is spent: with a profile alone, what a study will.

    The pool is read, its tokens are estimated from a sample, and the speed of this device is measured for a
    few seconds. Nothing is left behind.
    """
    from rdslib.commands import plan as planning
    from rdslib.commands.own_pool import Request

    _choose(device)
    if pool is None and profile is not None:
        typer.echo(planning.as_text(planning.plan_profile(profile)))
        return
    if pool is None or model is None or k is None:
        raise UserError("rds plan: give --pool, --model and -k, as to `rds select`, or --profile alone")
    request = Request(
        pool, model, k, queries, method, form, on_error, dedup, tuple(exclude or ()), balance_sources,
        max_per_source, profile, engine, seed,
    )  # fmt: skip
    typer.echo(planning.as_text(planning.plan_request(request)))


def explain(
    selection: Annotated[Path, typer.Argument(help="The file that `rds select` wrote.")],
    sample: Annotated[
        str,
        typer.Option(help="Its id (its row number in the pool, if it has none), or --sample=#3, its rank."),
    ],
) -> None:
    """Say why a sample was picked, or why not: its rank under each query, what took it, what is like it."""
    from rdslib.commands import explain as explaining

    typer.echo(explaining.as_text(explaining.explain(selection, sample)))


def compare(
    a: Annotated[Path, typer.Argument(help="A file that `rds select` wrote, or other samples.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    figure: Annotated[Path | None, typer.Option(help="A .png or .svg file to draw them to.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="The rows' form, where their fields do not tell.")
    ] = None,
) -> None:
    """Compare two selections: their overlap, sources and scores."""
    from rdslib.commands import compare as comparing

    if figure is not None:
        comparing.check_figure(figure)
    compared = comparing.compare(a, b, form)
    typer.echo(comparing.as_text(compared))
    if figure is not None:
        comparing.write_figure(comparing.compare_figure(compared), figure)


def _choose(device: str | None) -> None:
    if device is not None:
        from rdslib.models.device import choose

        choose(device)
