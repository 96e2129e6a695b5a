"""Comparing two selections: against set arithmetic, and as text and figure."""

from __future__ import annotations

import gzip
import json
import statistics
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib.text
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.commands.compare import (
    LAYERS,
    LONGEST,
    check_figure,
    compare,
    compare_figure,
    shown,
    write_figure,
)
from rdslib.commands.outputs import record_of
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import write_selection
from rdslib.commands.text import as_text
from rdslib.errors import UserError
from rdslib.figures import style as style
from rdslib.files import sha256_of

SOURCES = [
    "FLAN V2",
    "_notes",
    "prices in $ or in US$",
    "hf://datasets/an-organisation/a-set-with-a-long-name",
]
SOURCES += [f"hf://datasets/an-organisation/a-set-of-number-{i}" for i in range(8)]


def row(text, source=None, **extra):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    return {"messages": messages, **({"source": source} if source else {}), **extra}


def write(path, rows, method=None, form=None):
    path.write_text("\n".join(json.dumps(each) for each in rows), encoding="utf-8")
    if method:
        request = SelectRequest(pool="pool.jsonl", model="m", k="1", method=method, format=form)
        record = {"request": request.model_dump(), "output_sha256": sha256_of(path)}
        record_of(path).write_text(json.dumps(record))
    return path


def select(pool, model, out, **options):
    return write_selection(SelectRequest.of({"pool": pool, "model": model, **options}), out)


def said(compared):
    return as_text(shown(compared), 100)


def picks(texts, sources=("s",), scores=None):
    """Rows as of a selection, in order of picking."""
    return [
        row(text, sources[i % len(sources)], rds_rank=i, rds_score=scores[i] if scores else 1 - i / 100)
        for i, text in enumerate(texts)
    ]


texts = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=10)


@settings(max_examples=40, deadline=None)
@given(texts, texts, st.integers(1, 3))
def test_numbers_are_set_arithmetic(first, second, sources):
    names = ["x", "y", "z"][:sources]
    with tempfile.TemporaryDirectory() as folder:
        a = write(Path(folder, "a.jsonl"), picks(first, names))
        b = write(Path(folder, "b.jsonl"), picks(second, names[::-1]))
        found = compare(a, b)
    both = set(first) & set(second)
    assert found.common == len(both)
    assert found.jaccard == pytest.approx(len(both) / len(set(first) | set(second)))
    for name, path, given_texts in zip("AB", (a, b), (first, second), strict=True):
        side = found.sides.loc[name]
        assert (side["path"], side["method"]) == (path, None)
        assert (side["samples"], side["texts"]) == (len(given_texts), len(set(given_texts)))
        # Of a text that comes twice, the first rank.
        ranks = [given_texts.index(text) for text in both]
        mean = statistics.mean(ranks) if both else np.nan
        assert side["common_rank"] == pytest.approx(mean, nan_ok=True)
        counted = Counter(
            (names if name == "A" else names[::-1])[i % sources] for i in range(len(given_texts))
        )
        mix = found.sources[found.sources["selection"] == name].set_index("source")
        assert {source: n for source, n in mix["count"].items() if n} == counted
        assert mix["share"].to_dict() == pytest.approx(
            {source: counted[source] / len(given_texts) for source in mix.index}
        )
        scores = [1 - i / 100 for i in range(len(given_texts))]
        assert found.scores["score"][found.scores["selection"] == name].tolist() == scores
        spread = found.spread.loc[name]
        assert (spread["count"], spread["min"], spread["max"]) == (len(scores), min(scores), max(scores))
        assert spread["mean"] == pytest.approx(statistics.mean(scores))
        assert spread["50%"] == pytest.approx(statistics.median(scores))
        quarter = len(scores) > 1 and statistics.quantiles(scores, n=4, method="inclusive")
        assert not quarter or [spread["25%"], spread["75%"]] == pytest.approx([quarter[0], quarter[2]])
    by_source = found.sources.pivot(index="source", columns="selection", values="share")
    assert not by_source.isna().any(axis=None)
    sizes = by_source.sum(axis=1)[found.sources["source"].unique()]
    assert (sizes.diff().dropna() < 1e-12).all()


def test_texts_are_the_same_but_for_white_space_roles_and_case_are_not(tmp_path):
    system = {"messages": [{"role": "system", "content": "a"}, *row("b")["messages"]]}
    a = write(tmp_path / "a.jsonl", [row("one "), row("Two"), row("a"), system])
    b = write(tmp_path / "b.jsonl", [row("\none"), row("two"), row("b")])
    assert compare(a, b).common == 1


def test_any_file_of_data_can_be_compared(tmp_path):
    rows = [{"instruction": f"q{i}", "output": "yes", "rds_score": i / 8, "rds_rank": i} for i in range(6)]
    a = write(tmp_path / "a.jsonl", [row(f"q{i}") for i in range(3, 9)])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "b.csv", index=False)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    for name in ("b.parquet", "b.csv", "b.jsonl.gz"):
        found = compare(a, tmp_path / name)
        assert (found.common, found.jaccard) == (3, 3 / 9)
        assert found.scores.to_dict("list") == {"selection": ["B"] * 6, "score": [i / 8 for i in range(6)]}
        assert np.isnan(found.sides["common_rank"]["B"])  # A has no ranks
        assert set(found.sources["source"]) == {"a", "b"}
        assert "No row of A has rds_score." in said(found)
        assert "mean rank" not in said(found)


def test_selections_are_read_back_in_their_form(tmp_path, tiny_model, monkeypatch):
    """A pool whose fields tell two forms, so that the record's is needed."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    rows = [row(f"text {i}", prompt=f"text {i}", prompt_id="x") for i in range(8)]
    pool = write(tmp_path / "pool.jsonl", rows)
    made = {}
    for name, form, k, seed in (("own", "own", "5", 1), ("messages", "messages", "4", 2)):
        made[name] = tmp_path / f"{name}.jsonl"
        options = {"method": "random", "format": "messages", "as_": form, "seed": seed}
        select(pool, tiny_model, made[name], k=k, **options)
    found = compare(made["own"], made["messages"])
    sets = [
        {json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()}
        for path in made.values()
    ]
    assert found.common == len(sets[0] & sets[1])
    assert found.sides["method"].tolist() == ["random", "random"]
    # The rows name no source: it is the file that they were in, not the one that they are in now.
    assert set(found.sources["source"]) == {"pool"}
    with pytest.raises(UserError, match="has the fields of the forms messages and prompt_completion"):
        compare(made["own"], pool)
    assert compare(made["own"], pool, "messages").common == 5


def test_a_pool_of_another_form_written_as_messages_is_read(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    pool = write(tmp_path / "pool.jsonl", [{"instruction": f"{i}", "output": "yes"} for i in range(6)])
    for name, form in (("own", "own"), ("messages", "messages")):
        options = {"method": "random", "format": "alpaca", "as_": form}
        select(pool, tiny_model, tmp_path / f"{name}.jsonl", k=3, **options)
    assert compare(tmp_path / "own.jsonl", tmp_path / "messages.jsonl").jaccard == 1


def test_scores_of_different_methods_are_said_not_to_compare(tmp_path):
    files = {
        method: write(tmp_path / f"{method}.jsonl", picks("abc"), method)
        for method in ("rds", "rds_eos", "top_ppl")
    }
    note = "Scores of RDS+ and of Top-PPL are on different scales and do not compare."
    assert note in said(compare(files["rds"], files["top_ppl"]))
    for other in (files["rds"], write(tmp_path / "unknown.jsonl", picks("abc"))):
        assert "different scales" not in said(compare(files["rds"], other))


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def large(tmp_path, sources=SOURCES, methods=("rds", "rds")):
    rng = np.random.default_rng(0)
    files = []
    for name, method, start, mean in zip("ab", methods, (0, 150), (0.6, 0.5), strict=True):
        names = [sources[i] for i in rng.integers(len(sources), size=300)]
        scores = rng.normal(mean, 0.05, 300).tolist()
        rows = [row(f"q{start + i}", names[i], rds_rank=i, rds_score=scores[i]) for i in range(300)]
        files.append(write(tmp_path / f"{name}.jsonl", rows, method))
    return compare(*files)


def test_the_figure_names_everything_once_and_keeps_it_apart(tmp_path):
    compared = large(tmp_path)
    figure = compare_figure(compared)
    figure.draw_without_rendering()
    sources, upper, lower = figure.axes
    shown = words(figure)
    # Names are cut in the middle, and none is a formula or left out of the key.
    key = [text.get_text() for text in sources.get_legend().get_texts()]
    assert len(set(key)) == len(SOURCES)
    assert {"FLAN V2", "_notes", "prices in $ or in US$"} <= set(key)
    assert all(len(text) <= LONGEST + 1 for text in key)
    assert "150 texts are in both (Jaccard index 0.333)" in shown
    assert upper.get_xlim() == lower.get_xlim()
    for axes, name in ((upper, "A"), (lower, "B")):
        values = compared.scores["score"][compared.scores["selection"] == name]
        assert f"n = 300, mean {values.mean():.3f} (dashed)" in shown
        assert sum(bar.get_height() for bar in axes.patches) == 300
    heights = [bar.get_height() for bar in sources.patches]
    assert sum(heights) == pytest.approx(2)
    # Nothing of one panel, its key and titles among it, lies on another.
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for i, box in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert not box.shrunk(0.999, 0.999).overlaps(other)
    (foot,) = [text for text in figure.texts if "a.jsonl by RDS+" in text.get_text()]
    assert all(box.y0 >= foot.get_window_extent().y1 for box in boxes)


def test_many_sources_are_shown_as_others(tmp_path):
    compared = large(tmp_path, [f"source {i}" for i in range(LAYERS + 9)], ("rds", "top_ppl"))
    figure = compare_figure(compared)
    sources, upper, lower = figure.axes
    assert len(sources.get_legend().get_texts()) == LAYERS + 1
    assert sources.get_legend().get_texts()[0].get_text() == "9 others"
    assert sum(bar.get_height() for bar in sources.patches) == pytest.approx(2)
    assert upper.get_xlim() != lower.get_xlim()
    assert "different scales" in figure.get_supxlabel()
    text = said(compared)
    shown = [line.split() for line in text.splitlines() if line.endswith(" others") or "  source " in line]
    assert len(shown) == LAYERS + 1
    assert [sum(int(line[at]) for line in shown) for at in (0, 2)] == [300, 300]


def test_the_figure_without_scores_says_so(tmp_path):
    a = write(tmp_path / "a.jsonl", [row("a", "s")])
    b = write(tmp_path / "b.jsonl", [row("b", "s")], "rds")
    found = compare(a, b)
    assert found.spread.empty
    assert said(found).endswith("No row of A or B has rds_score.")
    assert words(compare_figure(found)).count("No scores") == 2


def test_the_text_is_at_most_100_columns_wide(tmp_path):
    lines = said(large(tmp_path)).splitlines()
    assert max(map(len, lines)) <= 100
    assert "The mean rank of what is ranked in both is 224.5 in A and 74.5 in B." in lines
    assert any(line.endswith(SOURCES[3]) for line in lines)


@pytest.mark.parametrize(("name", "start"), [("x.PNG", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_figures_are_written_by_their_names_and_the_same_twice(tmp_path, name, start):
    compared = large(tmp_path)
    contents = []
    for _ in range(2):
        write_figure(compare_figure(compared), tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]
    assert isinstance(compare_figure(compared), style.Drawing)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pdf", "x.pdf: is of no known kind; end its name with .png or .svg"),
        ("x", "x: is of no known kind"),
        ("none/x.png", "x.png: there is no folder"),
        ("folder.png", "folder.png: is a folder"),
    ],
)
def test_a_figure_that_cannot_be_written_is_one_line(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=message) as error:
        check_figure(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "record", "message"),
    [
        (None, None, "b.jsonl: there is no such file or folder"),
        ("", None, "b.jsonl: holds no samples"),
        ("[1]", None, "b.jsonl:1: is not a JSON object"),
        (
            json.dumps(row("a", rds_score="high")),
            None,
            "b.jsonl:1: its rds_score 'high' is no number; correct",
        ),
        (json.dumps(row("a", rds_rank=[1])), None, r"b.jsonl:1: its rds_rank '\[1\]' is no number"),
        (json.dumps(row("a")), "[]", "b.jsonl.rds.json: is not what `rds select` writes; select anew"),
        (json.dumps(row("a")), "{", "b.jsonl.rds.json: is not what `rds select` writes; select anew"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, content, record, message):
    a = write(tmp_path / "a.jsonl", [row("a")])
    b = tmp_path / "b.jsonl"
    if content is not None:
        b.write_text(content)
    if record is not None:
        record_of(b).write_text(record)
    for first, second in ((a, b), (b, a)):
        with pytest.raises(UserError, match=message) as error:
            compare(first, second)
        assert "\n" not in str(error.value)
