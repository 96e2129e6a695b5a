"""A profile's figures as one HTML page that opens from disk: nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import mistune
import pandas as pd
import yaml

from rdslib.errors import UserError
from rdslib.figures import charts as figures
from rdslib.figures import specs as tables
from rdslib.figures.blocks import as_html
from rdslib.figures.findings import findings
from rdslib.figures.table_drawing import TableFigure
from rdslib.params import ROOT

_CSS = """
:root{color-scheme:light}
body{font:1rem/1.55 system-ui,sans-serif;color:#222;background:#fff}
main{max-width:64rem;margin:0 auto;padding:1rem}
h1,h2,h3{line-height:1.25}h2{margin-top:3rem;border-top:1px solid #ccc;padding-top:1.5rem}
a{color:#0b5394}p,li{max-width:46rem}code,pre{font-size:.85rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto}.scroll:focus-visible{outline:2px solid #0b5394}
.scroll img{width:100%;min-width:38rem}
figure{margin:1rem 0}pre{white-space:pre-wrap;background:#f6f6f6;padding:.7rem}
.list{border-collapse:collapse;font-size:.85rem}
.list th,.list td{text-align:left;padding:.15rem .8rem .15rem 0}
summary{cursor:pointer;margin:.4rem 0}.rds small{color:#595959}
"""

_markdown = mistune.create_markdown(escape=True, plugins=["table"])


def write_report(profile: str, folder: Path, out: Path, root: Path = ROOT) -> Path:
    """Write a page of the figures and tables that are in `folder`, with all that is behind them, to `out`.

    It holds its pictures and tables, and needs neither a server nor the other files. Raises UserError for a
    folder without figures, or an `out` that cannot be written.
    """
    drawn = [name for name in tables.FIGURES if (folder / f"{name}.json").is_file()]
    if not drawn:
        raise UserError(f"{folder}: holds no figures; run `rds run --profile {profile}` first")
    described = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in drawn}
    sections = [_section(name, folder, described[name], root) for name in drawn]
    page = _page(profile, sections, described)
    try:
        out.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return out


def _page(profile: str, sections: list[tuple[str, str, str]], described: dict[str, Any]) -> str:
    parameters = next(iter(described.values()))["profile"]
    title = f"{parameters['title']}: the figures of profile {parameters['name']}"
    links = "".join(f'<li><a href="#{name}">{html.escape(heading)}</a></li>' for name, heading, _ in sections)
    absent = [name for name in tables.FIGURES if name not in described]
    missing = f"<p>Not drawn: {html.escape(', '.join(absent))}.</p>" if absent else ""
    given = html.escape(yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{_CSS}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>"
        "<p>Figures and tables of <cite>Large-Scale Data Selection for Instruction Tuning</cite>, from the "
        "paper's published numbers and from runs of our own. Each panel says which of the two it shows.</p>"
        f'<nav aria-label="Figures and tables"><ul>{links}</ul></nav>{missing}'
        + "".join(body for _, _, body in sections)
        + '<h2 id="behind">What is behind them</h2>'
        f"<h3>Environment</h3>{_environment(described)}"
        f"<h3>Parameters</h3><details><summary>All parameters of the profile</summary><pre>{given}</pre>"
        "</details></main></body></html>\n"
    )


def _environment(described: dict[str, Any]) -> str:
    # Figures may have been drawn on different days: every version that any of them names.
    found: dict[str, dict[str, None]] = {}
    for each in described.values():
        versions = {"python": each["python"], "platform": each["platform"], **each["versions"]}
        for name, value in versions.items():
            found.setdefault(name, {})[value] = None
    return _list("what", "version", [(name, ", ".join(values)) for name, values in found.items()])


def _section(name: str, folder: Path, described: dict[str, Any], root: Path) -> tuple[str, str, str]:
    """The name, the heading and the HTML of a figure."""
    csv = (folder / f"{name}.csv").read_bytes()
    table = read_table(folder / f"{name}.csv")
    heading, question, reading = _prose(root / "notebooks" / f"{name}.ipynb")
    shows = findings(name, table)
    figure = getattr(figures, name)(table)
    # What is wider than a phone scrolls in its place, by keys as well.
    label = html.escape(heading, quote=True)
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
    if isinstance(figure, TableFigure):
        shown = f"{region}{as_html(figure.blocks, figure.notes)}</div>"
    else:
        alt = html.escape(f"{heading} {_plain(shows)}", quote=True)
        picture = _data("image/svg+xml", (folder / f"{name}.svg").read_bytes())
        shown = f'<figure>{region}<img src="{picture}" alt="{alt}"></div></figure>'
    artifacts = [(f"{each['step']} {each['hash']}", each["what"]) for each in described["artifacts"]]
    behind = f"{len(described['records'])} records, {len(artifacts)} artifacts"
    origins = ", ".join(described["origins"]) or "nothing"
    download = _data("text/csv;charset=utf-8", csv)
    body = (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{html.escape(heading)}</h2>'
        f"{_html(question)}{shown}"
        f'<p><a href="{download}" download="{name}.csv">The numbers, as CSV</a></p>{_html(shows)}'
        f"<details><summary>How it was made, and how to read it</summary>{_html(reading)}</details>"
        f"<details><summary>Where it came from: {origins}; {behind}</summary>"
        f"{_list('artifact', 'what it is', artifacts)}</details></section>"
    )
    return name, heading, body


def read_table(path: Path) -> pd.DataFrame:
    """A figure's table from its CSV; a note that is not there is empty."""
    table = pd.read_csv(path)
    if "note" in table:
        table["note"] = table["note"].fillna("")
    return table


def _prose(notebook: Path) -> tuple[str, str, str]:
    """The heading, the question and the reading guide of a figure, from its notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    heading, _, question = texts[0].partition("\n")
    return heading.lstrip("# "), question.strip(), texts[1].partition("\n")[2].strip()


def _html(markdown: str) -> str:
    # A notebook's second-level headings stand under the page's own.
    return str(_markdown(re.sub(r"^## ", "### ", markdown, flags=re.MULTILINE)))


def _plain(markdown: str) -> str:
    text = " ".join(line for line in markdown.splitlines() if line and not line.startswith("#"))
    return re.sub(r"\\(.)", r"\1", re.sub(r"\*\*|`", "", text))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _list(first: str, second: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    head = f'<tr><th scope="col">{first}</th><th scope="col">{second}</th></tr>'
    return f'<div class="scroll"><table class="list"><thead>{head}</thead><tbody>{body}</tbody></table></div>'
