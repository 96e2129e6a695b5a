"""Executed notebooks as one HTML page: nothing in it is fetched from anywhere."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import nbformat
import pandas as pd
import yaml
from nbconvert import HTMLExporter

from rdslib.errors import UserError, reason_of
from rdslib.figures import FIGURES, draw
from rdslib.figures.base import (
    BASELINE,
    ORIGINS,
    RDS,
    by_origin,
    digits,
    interval,
    method_title,
    one_metric,
    span,
)
from rdslib.files import write_whole

if TYPE_CHECKING:
    from rdslib.figures.style import Drawing

PAPER = "https://arxiv.org/abs/2503.01807"
CODE = "https://github.com/hamishivi/automated-instruction-selection"
DATA = "https://huggingface.co/collections/hamishivi/large-scale-data-selection-for-instruction-tuning"
# Pictures wider than this many inches scroll on a phone, where their words would be too small.
WIDE = 6.67
_CSS = """
:root{color-scheme:light dark;--ink:#222;--page:#fff;--soft:#f6f6f6;--line:#ccc;--link:#0b5394;--dim:#595959}
@media (prefers-color-scheme:dark){
:root{--ink:#ddd;--page:#15171a;--soft:#23262b;--line:#444;--link:#8ab4f8;--dim:#a5a5a5}}
html{scroll-padding-top:.5rem}
body{font:1rem/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0}
.page{display:grid;grid-template-columns:15rem minmax(0,64rem);gap:2rem;justify-content:center;padding:1rem}
nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;font-size:.85rem;line-height:1.35}
nav a{display:block;padding:.35rem 0;text-decoration:none}nav strong{display:block}
h1,h2,h3{line-height:1.25}h2{margin-top:3rem;border-top:1px solid var(--line);padding-top:1.5rem}
a{color:var(--link)}p,li{max-width:46rem}code,pre{font-size:.85rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:1rem 0}.scroll:focus-visible{outline:2px solid var(--link)}
.panels{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
.panels>div{max-width:100%}.panels img{border-radius:.3rem}
pre{white-space:pre-wrap;background:var(--soft);padding:.7rem}
.dataframe{border-collapse:collapse;font-size:.85rem;border:0}
.dataframe :is(th,td){text-align:left!important;padding:.15rem .8rem .15rem 0;border:0;white-space:nowrap}
summary{cursor:pointer;margin:.4rem 0}.rds small{color:var(--dim)}
@media (max-width:60rem){
html{scroll-padding-top:3.5rem}
.page{display:block;padding:0}main{padding:0 1rem}
nav{display:flex;gap:1.1rem;overflow-x:auto;background:var(--page);border-bottom:1px solid var(--line)}
nav{padding:.3rem 1rem;z-index:1}nav a{flex:none}nav span{display:none}nav strong{font-weight:normal}
.panels .wide{max-width:none;width:40rem}}
"""
# What a notebook's cells show, without their code; wrapped by the page below.
_EXPORTER = HTMLExporter(
    template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True
)


def write_report(profile: str, folder: Path, out: Path) -> Path:
    """Write a page of the executed notebooks of a folder of figures, with all that is behind them.

    It holds its pictures and tables, and needs neither a server nor the other files.

    Args:
        profile: What the figures were drawn with, for a message.
        folder: The figures, such as `figures/mini`.
        out: The HTML file.

    Returns:
        The HTML file.

    Raises:
        UserError: For a folder without executed notebooks, or an `out` that cannot be written.
    """
    drawn = [name for name in FIGURES if (folder / "notebooks" / f"{name}.ipynb").is_file()]
    if not drawn:
        raise UserError(f"{folder}: holds no executed notebooks; run `rds run --profile {profile}` first")
    try:
        described = {name: json.loads((folder / f"{name}.json").read_bytes()) for name in drawn}
        page = _page([_section(name, folder, described[name]) for name in drawn], described, folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: holds a figure that is not whole ({reason_of(error)}); "
            f"run `rds run --profile {profile}` again"
        ) from error
    try:
        write_whole(out, page.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return out


def _section(name: str, folder: Path, described: dict[str, Any]) -> tuple[str, str, str]:
    """The name, the heading and the HTML of a figure."""
    notebook = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
    parts = []
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            title, _, cell.source = cell.source.partition("\n")
            title = html.escape(title.lstrip("# "))
            if heading:
                parts.append(f"<details><summary>{title}</summary>{_html(cell)}</details>")
            else:
                heading = title
                parts.append(f'<h2 id="{name}">{heading}</h2>{_html(cell)}')
        elif cell.outputs:
            # Lines of progress and of files written are for whoever ran the notebook.
            cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
            drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
            shown = _panels(name, folder, heading) if drawn else _html(cell)
            # What is wider than a phone scrolls in its place, by keys as well.
            region = f'<div class="scroll" tabindex="0" role="region" aria-label="{heading}">'
            parts.append(f"{region}{shown}</div>")
    origins = html.escape(", ".join(described["origins"]))
    records, artifacts = len(described["records"]), pd.DataFrame(described["artifacts"])
    behind = f"Where it came from: {origins}; {records} records, {len(artifacts)} artifacts"
    parts.append(f"<details><summary>{behind}</summary>{_table(artifacts)}</details>")
    return name, heading, f'<section aria-labelledby="{name}">{"".join(parts)}</section>'


def _panels(name: str, folder: Path, heading: str) -> str:
    """A figure as a picture of each origin, so that on a phone they stand one under another.

    Others' numbers share panels with the paper's, and are one picture.
    """
    pictures = []
    table = _numbers(name, folder)
    parts = by_origin(table)
    if "others" in set(table["origin"]):
        parts = [(ORIGINS["others"], table)]
    for title, rows in parts:
        figure = cast("Drawing", draw(name, rows))
        wide = ' class="wide"' if figure.get_figwidth() > WIDE else ""
        pictures.append(f"<div{wide}>{figure.html(f'{html.unescape(heading)} {title}.')}</div>")
    return f'<div class="panels">{"".join(pictures)}</div>'


def _numbers(name: str, folder: Path) -> pd.DataFrame:
    """The table of a figure, where a name may be "NA"."""
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])


def _found(folder: Path) -> str:
    """What Figure 1 comes to, from the largest pool of each origin."""
    if not (folder / "fig1_pareto.csv").is_file():
        return ""
    found = []
    table = _numbers("fig1_pareto", folder)
    for title, rows in by_origin(table[table["score"].notna()]):
        rows = rows[rows["pool_size"] == rows["pool_size"].max()]
        metric, better = one_metric(rows)
        rows = rows.sort_values("score", ascending=better == "lower", kind="stable").set_index("method")
        number = f"{{:.{digits(rows['score'])}f}}".format
        asked = f"{span(rows['budget'])} samples of {span(rows['pool_size'])}, picked for one task at a time"
        says = f"<strong>{title}</strong>, {asked}: the best of {len(rows)} methods is "
        says += f"{method_title(rows.index[0])}, with {number(rows['score'].iloc[0])} "
        says += f"({metric[0].lower()}{metric[1:]}; {better} is better)."
        if {RDS, BASELINE} <= set(rows.index):
            gap = rows.loc[RDS, "score"] - rows.loc[BASELINE, "score"]
            says += f" RDS+ is {number(abs(gap))} {'above' if gap > 0 else 'below'} {method_title(BASELINE)}"
            low, high = rows.reindex(columns=["diff_vs_random_low", "diff_vs_random_high"]).loc[RDS]
            if not math.isnan(low):
                says += f" (95% interval of the difference {interval(low, high, digits(rows['score']))})"
                says += ", which may be chance" if low <= 0 <= high else ""
            says += "."
        found.append(f"<p>{says}</p>")
    return "".join(found)


def _html(cell: nbformat.NotebookNode) -> str:
    notebook = nbformat.v4.new_notebook(cells=[cell])
    page = str(_EXPORTER.from_notebook_node(notebook)[0])
    # The guides stand beside the notebooks, and not beside the page.
    return re.sub(r'<a href="\.\./docs/[^"]*">(.*?)</a>', r"\1", page)


def _page(sections: list[tuple[str, str, str]], described: dict[str, Any], folder: Path) -> str:
    profile = next(iter(described.values()))["profile"]
    title = html.escape(f"{profile['title']}: the figures of profile {profile['name']}")
    headings = [(name, *heading.partition(":")) for name, heading, _ in sections]
    links = "".join(
        f'<a href="#{name}"><strong>{title}</strong> <span>{about.strip()}</span></a>'
        for name, title, _, about in headings
    )
    absent = [name for name in FIGURES if name not in described]
    missing = f"<p>Not drawn: {', '.join(absent)}.</p>" if absent else ""
    # Figures may have been drawn on different days: every version that any of them names.
    versions = [{"python": each["python"], "platform": each["platform"], **each["versions"]}
                for each in described.values() if "versions" in each]  # fmt: skip
    found = pd.DataFrame(versions).agg(_listed)
    computed = f"<h3>Environment</h3>{_table(found.rename_axis('what').reset_index(name='version'))}"
    given = html.escape(yaml.safe_dump(profile, sort_keys=False, allow_unicode=True))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{_CSS}</style></head>'
        f'<body><div class="page"><nav aria-label="Figures and tables">{links}</nav><main><h1>{title}</h1>'
        f"{_found(folder)}"
        "<p>The paper is <cite>Large-Scale Data Selection for Instruction Tuning</cite> (Ivison, Zhang, "
        f'Brahman, Koh and Dasigi, 2025): <a href="{PAPER}">its text</a>, <a href="{CODE}">code</a>, '
        f'<a href="{DATA}">data and models</a>. What was measured here comes from rdslib, an open '
        "reproduction. Each panel says whether it shows the published numbers, others' or ours.</p>"
        f"{missing}" + "".join(body for _, _, body in sections) + '<h2 id="behind">What is behind them</h2>'
        f"{computed if versions else ''}"
        f"<h3>Parameters</h3><details><summary>All parameters of the profile</summary><pre>{given}</pre>"
        "</details></main></div></body></html>\n"
    )


def _listed(column: pd.Series) -> str:
    return ", ".join(column.unique())


def _table(rows: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return f'<div class="scroll sortable">{rows.to_html(index=False, border=0)}</div>'
