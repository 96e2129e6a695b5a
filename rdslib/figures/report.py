"""Executed notebooks as one HTML page: nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from nbconvert import HTMLExporter

from rdslib.errors import UserError, reason_of
from rdslib.figures import FIGURES
from rdslib.files import write_whole

_CSS = """
:root{color-scheme:light}
body{font:1rem/1.55 system-ui,sans-serif;color:#222;background:#fff}
main{max-width:64rem;margin:0 auto;padding:1rem}
h1,h2,h3{line-height:1.25}h2{margin-top:3rem;border-top:1px solid #ccc;padding-top:1.5rem}
a{color:#0b5394}p,li{max-width:46rem}code,pre{font-size:.85rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:1rem 0}.scroll:focus-visible{outline:2px solid #0b5394}
.scroll img{width:100%;min-width:38rem}
pre{white-space:pre-wrap;background:#f6f6f6;padding:.7rem}
.dataframe{border-collapse:collapse;font-size:.85rem;border:0}
.dataframe :is(th,td){text-align:left!important;padding:.15rem .8rem .15rem 0;border:0;white-space:nowrap}
summary{cursor:pointer;margin:.4rem 0}.rds small{color:#595959}
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
        page = _page([_section(name, folder, described[name]) for name in drawn], described)
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
            for output in cell.outputs:
                output.setdefault("metadata", {})["image/png"] = {"alt": html.unescape(heading)}
            # What is wider than a phone scrolls in its place, by keys as well.
            region = f'<div class="scroll" tabindex="0" role="region" aria-label="{heading}">'
            parts.append(f"{region}{_html(cell)}</div>")
    csv = base64.b64encode((folder / f"{name}.csv").read_bytes()).decode("ascii")
    link = f'<a href="data:text/csv;charset=utf-8;base64,{csv}" download="{name}.csv">The numbers, as CSV</a>'
    origins = html.escape(", ".join(described["origins"]))
    records, artifacts = len(described["records"]), pd.DataFrame(described["artifacts"])
    behind = f"Where it came from: {origins}; {records} records, {len(artifacts)} artifacts"
    parts.append(f"<p>{link}</p><details><summary>{behind}</summary>{_table(artifacts)}</details>")
    return name, heading, f'<section aria-labelledby="{name}">{"".join(parts)}</section>'


def _html(cell: nbformat.NotebookNode) -> str:
    notebook = nbformat.v4.new_notebook(cells=[cell])
    return str(_EXPORTER.from_notebook_node(notebook)[0])


def _page(sections: list[tuple[str, str, str]], described: dict[str, Any]) -> str:
    profile = next(iter(described.values()))["profile"]
    title = html.escape(f"{profile['title']}: the figures of profile {profile['name']}")
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
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
        f"<body><main><h1>{title}</h1>"
        "<p>Figures and tables of <cite>Large-Scale Data Selection for Instruction Tuning</cite>, from the "
        "paper's published numbers and from runs of ours. Each panel says which of the two it shows.</p>"
        f'<nav aria-label="Figures and tables"><ul>{links}</ul></nav>{missing}'
        + "".join(body for _, _, body in sections)
        + '<h2 id="behind">What is behind them</h2>'
        f"{computed if versions else ''}"
        f"<h3>Parameters</h3><details><summary>All parameters of the profile</summary><pre>{given}</pre>"
        "</details></main></body></html>\n"
    )


def _listed(column: pd.Series) -> str:
    return ", ".join(column.unique())


def _table(rows: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return f'<div class="scroll">{rows.to_html(index=False, border=0)}</div>'
