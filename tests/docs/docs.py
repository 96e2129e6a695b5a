"""The parts of the guides that are made from code and results: `python -m tests.docs.docs` renews them.

`docs/commands.md` is made from the command line as a whole. In other guides it is what stands between
`<!-- made: NAME -->` and `<!-- end -->`: NAME is a key of `PARTS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd
import typer

from rdslib.cli import app
from rdslib.figures.published import METHOD_NAMES
from rdslib.figures.style import human, method_name
from rdslib.params import ROOT

DOCS = ROOT / "docs"
RENEW = "python -m tests.docs.docs"
RESULTS = ROOT / "tests" / "bench" / "results"
MINI = ROOT / "figures" / "mini"
BASELINE = "random_balanced"
ORIGINS = ("measured", "published")
# Figure 1's costs are shown in tera- and exaflops.
UNITS = {"measured": 1e12, "published": 1e18}
_PART = re.compile(r"(<!-- made: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_TYPES = {str: "text", Path: "path", int: "number", bool: "flag"}


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


# The command line.


def commands() -> str:
    """`docs/commands.md`: every command that is shown in the help, with its options."""
    shown = {each.callback.__name__: each.callback for each in app.registered_commands if not each.hidden}
    parts = [_command(name, shown[name]) for name in typer.main.get_command(app).commands if name in shown]
    start = (
        f"# Commands\n\nMade from the code by `{RENEW}`: edit the help texts there, not here. "
        "`rds COMMAND --help` shows the same.\n\n"
        "Exit codes: 0 if all went well; 2 for what you can mend, which one line on standard error names; "
        "130 when stopped by Ctrl-C; 1 for a fault of ours, or where a command says so.\n\n"
    )
    links = "".join(f"- [`rds {name}`](#rds-{name})\n" for name in shown)
    return "\n".join([start + links, *parts])


def _command(name: str, function: Callable[..., Any]) -> str:
    command = typer.main.get_command(app).commands[name]
    hints = get_type_hints(function, include_extras=True)
    usage, rows = [f"rds {name}"], []
    for each in command.params:
        argument = each.param_type_name == "argument"
        names = [each.name.upper()] if argument else [*each.opts, *each.secondary_opts]
        if each.required:
            usage.append(names[0] if argument else f"{names[0]} {each.name.upper()}")
        default = "required" if each.required else _value(each.default)
        text = re.sub(r"([<|])", r"\\\1", each.help or "")
        rows.append((", ".join(f"`{n}`" for n in names), _type(hints[each.name], each), default, text))
    said = re.sub(r"([<|])", r"\\\1", command.help or "")
    return f"## rds {name}\n\n    {' '.join(usage)} [OPTIONS]\n\n{said}\n\n" + table(
        ("option", "type", "default", "what it is"), rows
    )


def _type(kind: Any, parameter: Any) -> str:
    """A parameter's type in words, from its annotation."""
    inner = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if get_origin(kind) is list:
        return f"{_type(inner[0], parameter)}, repeatable"
    if get_origin(kind) is Annotated or inner:
        return _type(inner[0], parameter)
    least = getattr(parameter, "min", None)
    return _TYPES[kind] + (f", at least {least}" if least is not None else "")


def _value(default: Any) -> str:
    if default is None:
        return ""
    return ("yes" if default else "no") if isinstance(default, bool) else f"`{default}`"


# What methods cost, and what they gave.


def _benchmark(name: str) -> tuple[str, str, dict[str, list[str]]]:
    """A benchmark's machine and conditions, and by the first cell of each row the medians of the others."""
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.split("(")[0].strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    conditions = lines[4].split("; ")[0].replace(" 1 threads", " 1 thread")
    return lines[2].rstrip("."), conditions, {first: rest for first, *rest in cells[2:]}


def speed() -> str:
    """Samples a second, from the benchmarks."""
    machines = {}
    machines["one_pass"], of_pass, passes = _benchmark("one_pass")
    machines["less"], of_less, less = _benchmark("less")
    machines["selection_at_scale"], of_ranking, sizes = _benchmark("selection_at_scale")
    samples = int(of_pass.split()[0])
    names = {"RDS+ alone": "RDS+, or an ablation", "NLL alone": "Top-PPL and Mid-PPL"}
    rows = [
        (names.get(each, f"{each} features of this pass"), f"{samples / float(cells[0]):.1f}")
        for each, cells in passes.items()
    ]
    rows += [
        (f"LESS at {number} checkpoint{'s' * (number != '1')}, without projection", f"{float(cells[1]):.1f}")
        for number, cells in less.items()
    ]
    largest = list(sizes)[-1]
    same = len(set(machines.values())) == 1
    where = machines["less"] if same else "; ".join(f"{name}: {each}" for name, each in machines.items())
    return table(("features", "samples/s"), rows) + (
        f"\nMedians. The first three: {of_pass} (`one_pass.md`). LESS: {of_less} (`less.md`). "
        f"Ranking {largest} samples, with {of_ranking}, took {sizes[largest][1]} s "
        f"(`selection_at_scale.md`). {where}.\n"
    )


def _fig1() -> tuple[pd.DataFrame, list[str], list[tuple[str, int]]]:
    """Figure 1's rows by origin, pool size and method; the methods in the usual order; origins and sizes."""
    rows = pd.read_csv(MINI / "fig1_pareto.csv")
    methods = [name for name in METHOD_NAMES if name in set(rows["method"])]
    rows = rows.set_index(["origin", "pool_size", "method"])
    return rows, methods, sorted({(origin, size) for origin, size, _ in rows.index})


def _size(size: int) -> str:
    return f"{size:,}" if size < 10_000 else human(size)


def costs() -> str:
    """FLOPs of selection and training, measured here and by the paper's formula."""
    rows, methods, pools = _fig1()
    budgets = {origin: int(rows.loc[origin]["budget"].iloc[0]) for origin in ORIGINS}
    words = {"measured": "here, TFLOPs: {} of {}", "published": "published, EFLOPs: {} of {}"}
    head = [words[origin].format(_size(budgets[origin]), _size(size)) for origin, size in pools]
    cells = [
        [_number(rows, (*pool, method), "flops", "{:,.3g}", UNITS[pool[0]]) for pool in pools]
        for method in methods
    ]
    return table(
        ("method", *head),
        [(method_name(method), *each) for method, each in zip(methods, cells, strict=True)],
    )


def outcome() -> str:
    """Scores and paired differences of the mini study, and the published scores."""
    rows, methods, pools = _fig1()
    here, there = ([pool for pool in pools if pool[0] == origin] for origin in ORIGINS)
    baseline = method_name(BASELINE)
    head = [f"here, from {_size(size)}" for _, size in here]
    head += [f"here, less {baseline}, from {_size(size)}" for _, size in here]
    head += [f"published, from {_size(size)}" for _, size in there]
    lines = [
        [
            method_name(method),
            *(_interval(rows, (*pool, method), "score", ("low", "high"), "{:.3f}") for pool in here),
            *(
                _interval(
                    rows, (*pool, method), "less_random", ("less_random_low", "less_random_high"), "{:+.3f}"
                )
                for pool in here
            ),
            *(_number(rows, (*pool, method), "score", "{:.1f}") for pool in there),
        ]
        for method in methods
    ]
    return table(("method", *head), lines) + "\n" + _told_apart(rows.loc["measured"], baseline)


def _told_apart(here: pd.DataFrame, baseline: str) -> str:
    """How many differences have an interval without 0, which change sides, and what all of it rests on."""
    known = here.dropna(subset=["less_random"])
    side = (known["less_random_low"] > 0).astype(int) - (known["less_random_high"] < 0).astype(int)
    product = side.unstack(level="pool_size").prod(axis=1, skipna=False)
    turned = [method_name(method) for method in product.index[product < 0]]
    described = json.loads((MINI / "fig1_pareto.json").read_text(encoding="utf-8"))
    e = described["profile"]["experiment"]
    train, budget, seeds = e["train"], int(here["budget"].iloc[0]), len(e["grid"]["seeds"])
    updates = math.ceil(budget / train["batch_size"]) * train["epochs"]
    return (
        f"Of {len(known)} differences from {baseline}, the largest is "
        f"{known['less_random'].abs().max():.3f}, and {int((side != 0).sum())} have an interval without 0"
        + (f", but {' and '.join(turned)} change sides from one pool to the other" if turned else "")
        + f". Each row rests on {seeds} seed{'s' * (seeds > 1)}, {updates} updates of "
        f"{train['batch_size']} samples for each task, and {int(here['n'].iloc[0])} test samples of "
        f"{len(e['tasks'])} tasks. The model is {e['model']['title']}. Numbers are from "
        f"`figures/mini/fig1_pareto.csv`, made on {described['platform']} with torch "
        f"{described['versions']['torch']}.\n"
    )


def _number(rows: pd.DataFrame, at: tuple[Any, ...], column: str, form: str, unit: float = 1) -> str:
    value = float(rows[column].get(at, math.nan)) / unit
    return "" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else form.format(value)


def _interval(rows: pd.DataFrame, at: tuple[Any, ...], column: str, ends: tuple[str, str], form: str) -> str:
    value, low, high = (_number(rows, at, each, form) for each in (column, *ends))
    return f"{value} ({low} to {high})" if value else ""


PARTS: dict[str, Callable[[], str]] = {"speed": speed, "costs": costs, "outcome": outcome}


def renewed(path: Path) -> str:
    """A guide as it should be."""
    if path == DOCS / "commands.md":
        return commands()
    return _PART.sub(lambda part: part[1] + PARTS[part[2]](), path.read_text(encoding="utf-8"))


def main() -> None:
    """Write what has changed."""
    for path in sorted({*DOCS.glob("*.md"), DOCS / "commands.md"}):
        text = renewed(path)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
