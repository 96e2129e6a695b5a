"""The parts of the guides that are made from code and results: `python -m tests.docs.docs` renews them.

`docs/commands.md` is made from the command line as a whole, the picture of `docs/architecture.md` from the
import graph. In README and other guides it is what stands between `<!-- made: NAME -->` and `<!-- end -->`:
NAME is a key of `PARTS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from importlib.metadata import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd

from rdslib.commands.app import COMMANDS, load
from rdslib.figures import key_numbers
from rdslib.figures.base import BASELINE, human, in_order, method_title
from rdslib.params import ROOT
from tests.docs import architecture
from tests.lock import direct_requirements, locked, name_of

DOCS = ROOT / "docs"
RENEW = "python -m tests.docs.docs"
RESULTS = ROOT / "tests" / "bench" / "results"
MINI = ROOT / "figures" / "mini"
LAB = ROOT / "figures" / "lab"
_PART = re.compile(r"(<!-- made: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_TYPES = {str: "text", Path: "path", int: "number", float: "number", bool: "flag"}


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


# The command line.


def commands() -> str:
    """`docs/commands.md`: every command that is shown in the help, with its options."""
    names = [name for name, (_, about) in COMMANDS.items() if about]
    start = (
        f"# Commands\n\nMade from the code by `{RENEW}`: edit the help texts there, not here. "
        "`rds COMMAND --help` shows the same.\n\n"
        "Exit codes: 0 if all went well; 2 for what you can correct, which one line on standard error names; "
        "130 when stopped by Ctrl-C; 1 for a fault of ours, or where a command says so.\n\n"
    )
    links = "".join(f"- [`rds {name}`](#rds-{name})\n" for name in names)
    return "\n".join([start + links, *map(_command, names)])


def _command(name: str) -> str:
    command = load(name)
    hints = get_type_hints(command.callback, include_extras=True)
    usage, rows = [f"rds {name}"], []
    for each in command.params:
        argument = each.param_type_name == "argument"
        names = [each.name.upper()] if argument else [*each.opts, *each.secondary_opts]
        if each.required:
            usage.append(names[0] if argument else f"{names[0]} {each.name.upper()}")
        default = "required" if each.required else _value(each.default)
        text = re.sub(r"([<|])", r"\\\1", each.help or "")
        rows.append((", ".join(f"`{n}`" for n in names), _type(hints[each.name], each), default, text))
    about = re.sub(r"([<|])", r"\\\1", command.help or "")
    return f"## rds {name}\n\n    {' '.join(usage)} [OPTIONS]\n\n{about}\n\n" + table(
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
    machine, of_pass, passes = _benchmark("one_pass")
    _, of_less, less = _benchmark("less")
    _, of_ranking, sizes = _benchmark("selection_at_scale")
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
    return table(("features", "samples/s"), rows) + (
        f"\nMedians. The first three: {of_pass} (`one_pass.md`). LESS: {of_less} (`less.md`). "
        f"Ranking {largest} samples, with {of_ranking}, took {sizes[largest][1]} s "
        f"(`selection_at_scale.md`). {machine}.\n"
    )


def _of_methods(columns: Sequence[tuple[str, str, Callable[[pd.Series], str]]], folder: Path = MINI) -> str:
    """A table of a study's Figure 1, of a row a method.

    A column is given for each pool of an origin, as origin, title (with the budget and the pool's size) and
    what its cells say of a row of the figure.
    """
    rows = pd.read_csv(folder / "fig1_pareto.csv")
    methods = in_order(rows["method"])
    cells: dict[str, list[str]] = {}
    for origin, title, written in columns:
        for (size, budget), of_pool in rows[rows["origin"] == origin].groupby(["pool_size", "budget"]):
            known = {row["method"]: written(row) for _, row in of_pool.iterrows()}
            cells[title.format(human(budget), _size(size))] = [known.get(method, "") for method in methods]
    lines = zip(map(method_title, methods), *cells.values(), strict=True)
    return table(("method", *cells), list(lines))


def _size(size: int) -> str:
    return f"{size:,}" if size < 10_000 else human(size)


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else form.format(value)


def _interval(row: pd.Series, column: str, low: str, high: str, form: str) -> str:
    value, *ends = (_number(row[each], form) for each in (column, low, high))
    return "{} ({} to {})".format(value, *ends) if value else ""


def costs() -> str:
    """FLOPs of selection and training, measured here and by the paper's formula."""
    return _of_methods(
        [
            ("measured", "here, TFLOPs: {} of {}", lambda row: _number(row["flops"] / 1e12, "{:,.3g}")),
            ("published", "published, EFLOPs: {} of {}", lambda row: _number(row["flops"] / 1e18, "{:,.3g}")),
        ]
    )


def outcome() -> str:
    """Scores and paired differences of the mini study, the published scores, and what all of it rests on."""
    diff = ("diff_vs_random", "diff_vs_random_low", "diff_vs_random_high")
    found = _of_methods(
        [
            ("measured", "here, from {1}", lambda row: _interval(row, "score", "low", "high", "{:.3f}")),
            (
                "measured",
                f"here, diff to {method_title(BASELINE)}, from {{1}}",
                lambda row: _interval(row, *diff, "{:+.3f}"),
            ),
            ("published", "published, from {1}", lambda row: _number(row["score"], "{:.1f}")),
        ]
    )
    rows = pd.read_csv(MINI / "fig1_pareto.csv").dropna(subset=list(diff))
    side = (rows[diff[1]] > 0).astype(int) - (rows[diff[2]] < 0).astype(int)
    turned = [each for each, of in side.groupby(rows["method"]) if {-1, 1} <= set(of)]
    verb = "change" if len(turned) > 1 else "changes"
    sides = f", but {' and '.join(map(method_title, turned))} {verb} sides from one pool to the other"
    described = json.loads((MINI / "fig1_pareto.json").read_text(encoding="utf-8"))
    e = described["profile"]["experiment"]
    train, seeds = e["train"], len(e["grid"]["seeds"])
    updates = math.ceil(int(rows["budget"].iloc[0]) / train["batch_size"]) * train["epochs"]
    return (
        f"{found}\nOf {len(rows)} differences from {method_title(BASELINE)}, the largest is "
        f"{rows[diff[0]].abs().max():.3f}, and {int((side != 0).sum())} have an interval without 0"
        f"{sides if turned else ''}. Each row rests on {seeds} seed{'s' * (seeds > 1)}, {updates} updates of "
        f"{train['batch_size']} samples for each task, "
        f"and {int(rows['n'].iloc[0])} test samples of {len(e['tasks'])} tasks. The model is "
        f"{e['model']['title']}. Numbers are from `figures/mini/fig1_pareto.csv`, made on "
        f"{described['platform']} with torch {described['versions']['torch']}.\n"
    )


# What holds.


def claims() -> str:
    """Every claim with what the paper, others and `lab` have found, and the verdict on the last."""
    lines = (LAB / "claims.md").read_text(encoding="utf-8").splitlines()
    _, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return table(("claim", "the paper", "others", "measured in `lab`", "verdict"), rows)


def lab() -> str:
    """What `lab` has measured for one task at a time."""
    rows = pd.read_csv(LAB / "fig1_pareto.csv")
    known = in_order(rows[(rows["origin"] == "measured") & rows["score"].notna()]["method"])
    missing = [each for each in in_order(rows["method"]) if each not in known]
    records = pd.read_csv(LAB / "records.csv")
    seeds = sorted(set(records[records["budget"] > 0]["seed"]))
    diff = ("diff_vs_random", "diff_vs_random_low", "diff_vs_random_high")
    columns: list[tuple[str, str, Callable[[pd.Series], str]]] = [
        ("measured", "{0} of {1}", lambda row: _interval(row, "score", "low", "high", "{:.3f}")),
        (
            "measured",
            f"{{0}} of {{1}}, diff to {method_title(BASELINE)}",
            lambda row: _interval(row, *diff, "{:+.3f}"),
        ),
    ]
    lines = _of_methods(columns, LAB).splitlines(keepends=True)
    titles = {f"| {method_title(each)} |" for each in missing}
    return (
        "".join(line for line in lines if not line.startswith(tuple(titles)))
        + "\nBits per byte relative to the untuned model, mean over tasks: **lower** is better. "
        + f"Seed{'s' * (len(seeds) > 1)} so far: {', '.join(map(str, seeds))}. "
        + f"Not run yet, or not a part of `lab`: {', '.join(map(method_title, missing)) or 'none'}.\n"
    )


def others() -> str:
    """The key numbers of `replication`: means over models, and RDS+ itself."""
    found = key_numbers(pd.read_csv(LAB / "replication.csv"))
    means = found[found["model"].str.startswith("mean of") | found["what"].str.startswith("RDS+ itself")]
    return table(
        ("pool", "what", "model", *means.columns[4:]),
        [[row["pool"], row["what"], row["model"], *row.iloc[4:]] for _, row in means.iterrows()],
    )


# The same selections again.


def determinism() -> str:
    """Of each setting of the audit, the methods whose picks were others than at first, and how many."""
    lines = (ROOT / "tests" / "faults" / "determinism.md").read_text(encoding="utf-8").splitlines()
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")
    ]
    found = [
        (
            setting,
            runs,
            ", ".join(
                f"{name} {share}" for name, share in zip(head[2:], shares, strict=True) if share != "0"
            ),
        )
        for setting, runs, *shares in rows
    ]
    return table(("changed", "runs", "picks that changed"), [(*row, each or "none") for *row, each in found])


# Licences of packages.

# What classifiers and free texts call a licence, as an expression has it.
_LICENCES = {
    r"(The )?MIT License( \(MIT\))?": "MIT",
    r"Apache Software License|Apache 2\.0( License)?|Apache License, Version 2\.0": "Apache-2.0",
    r"3-Clause BSD License": "BSD-3-Clause",
    r"BSD License": "BSD",
    r"ISC License \(ISCL\)": "ISC",
    r"Python Software Foundation License": "PSF",
    r"Mozilla Public License 2\.0 \(MPL 2\.0\)": "MPL-2.0",
    r"GNU Lesser General Public License v2 or later \(LGPLv2\+\)": "LGPL-2.0-or-later",
}


def licences() -> str:
    """The licences of the lock's packages: of those that are asked for, and of what these bring."""
    direct = {name_of(each) for each in direct_requirements()}
    by_licence: dict[str, list[str]] = {}
    for name in sorted(locked()):
        by_licence.setdefault(_licence(name), []).append(name)
    rows = [
        (licence, ", ".join(filter(direct.__contains__, names)), ", ".join(sorted(set(names) - direct)))
        for licence, names in sorted(by_licence.items(), key=lambda each: (-len(each[1]), each[0]))
    ]
    elsewhere = ", ".join(sorted(locked(anywhere=True).keys() - locked()))
    return table(("licence", "asked for", "comes with these"), [*rows, ("not seen here", "", elsewhere)])


def _licence(name: str) -> str:
    """What an installed package says of its licence."""
    stated = metadata(name)
    classes = [each.split(" :: ") for each in stated.get_all("Classifier", [])]
    kinds = ", ".join(each[-1] for each in classes if each[0] == "License")
    found = (
        (stated["License-Expression"] or kinds or stated["License"] or "not stated").strip().splitlines()[0]
    )
    for called, short in _LICENCES.items():
        found = re.sub(called, short, found)
    return found


PARTS: dict[str, Callable[[], str]] = {
    "speed": speed,
    "costs": costs,
    "outcome": outcome,
    "claims": claims,
    "lab": lab,
    "others": others,
    "determinism": determinism,
    "licences": licences,
}


def renewed(path: Path) -> str:
    """A guide as it should be."""
    if path == DOCS / "commands.md":
        return commands()
    return _PART.sub(lambda part: part[1] + PARTS[part[2]](), path.read_text(encoding="utf-8"))


def main() -> None:
    """Write what has changed."""
    if architecture.shown() != architecture.arrows():
        architecture.draw()
        print(architecture.PICTURE.relative_to(ROOT))
    for path in sorted({*DOCS.glob("*.md"), DOCS / "commands.md", ROOT / "README.md"}):
        text = renewed(path)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
