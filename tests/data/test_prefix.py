"""Of a long text only the start is tokenised, which changes no token; and memory grows with what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rdslib.data import chat, prefix
from rdslib.data.chat import tokenize_chat, tokenize_query, user_assistant

PIECES = ["the", "The", "word", "I", "don't", "'LL", "x", "é", "e\u0301", "漢字", "مرحبا", "12", "345678"]
PIECES += [
    " ",
    " ",
    " ",
    "  ",
    "\n",
    " \n ",
    "\t",
    "...",
    "?!",
    "-",
    "_",
    "</s>",
    "<|user|>\n",
    "\u00a0",
    "😀",
]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=60).map("".join)

LEVEL = pre.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated"):
    return pre.Sequence([pre.Split(Regex(pattern), behavior, invert=behavior == "removed"), LEVEL])


SPLIT = {
    "gpt2": pre.ByteLevel(add_prefix_space=False),
    "prefix space": pre.ByteLevel(add_prefix_space=True),
    "llama3": split(prefix._SPLITS[0]),
    "qwen": split(prefix._SPLITS[1]),
    "removed": split(prefix._SPLITS[0], "removed"),
    "digits": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
}
WHOLE = {"bytes": LEVEL, "lines": split(r".+|\n+"), "metaspace": pre.Metaspace(split=False)}


def made(splitter, *added, normalizer=None):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.normalizer = splitter, normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre.ByteLevel.alphabet(),
        special_tokens=["</s>", "<s>"],
        show_progress=False,
    )
    core.train_from_iterator(["the word The words don't 1234 ...?! the  words\n\n"] * 20, trainer)
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    core.decoder = decoders.ByteLevel()
    core.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


@pytest.mark.parametrize("name", SPLIT)
def test_the_first_tokens_are_those_of_the_whole_text(name, monkeypatch):
    tokenizer = made(SPLIT[name], "  ", normalizer=normalizers.NFC() if name == "qwen" else None)
    assert prefix.splits_words(tokenizer)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.integers(2, 60), st.integers(1, 3))
    def check(pairs, most, chars):
        conversations = [user_assistant(*pair) for pair in pairs]
        with monkeypatch.context() as patch:
            patch.setattr(chat, "CHARS", chars)
            found = tokenize_chat(tokenizer, conversations, most)
            patch.setattr(chat, "splits_words", lambda _: False)
            patch.setattr(chat, "HELD", 2**30)
            assert found == tokenize_chat(tokenizer, conversations, most)

    check()


@pytest.mark.parametrize("leads", [None, ["Answer: ", "", "Yes, "]])
def test_queries_are_the_same_in_groups(leads, monkeypatch):
    queries = [user_assistant("the word", f"the {answer}") for answer in ("x", "words 12", "don't")]
    whole = tokenize_query(made(SPLIT["gpt2"]), queries, 20, "left", leads)
    monkeypatch.setattr(chat, "HELD", 20)
    assert tokenize_query(made(SPLIT["gpt2"]), queries, 20, "left", leads) == whole


@pytest.mark.parametrize("name", WHOLE)
def test_a_tokenizer_that_may_look_further_sees_the_whole_text(name):
    assert not prefix.splits_words(made(WHOLE[name]))


def test_tokens_that_take_blanks_and_other_normalizers_need_the_whole_text():
    for added in (AddedToken("a b"), AddedToken("word", rstrip=True)):
        assert not prefix.splits_words(made(SPLIT["gpt2"], added))
    assert not prefix.splits_words(made(SPLIT["gpt2"], normalizer=normalizers.NFKC()))
    tokenizer = made(SPLIT["gpt2"])
    tokenizer.truncation_side = "left"
    assert not prefix.splits_words(tokenizer)


def test_of_a_long_text_no_more_is_looked_at_than_is_needed(monkeypatch):
    tokenizer = made(SPLIT["gpt2"])
    seen = []
    whole = PreTrainedTokenizerFast._encode_plus

    def spied(self, text, *args, **kwargs):
        seen.extend(map(len, text))
        return whole(self, text, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", spied)
    for words in ("the words ", "1 "):  # the second has no place for a cut
        (tokens,) = tokenize_chat(tokenizer, [user_assistant("q", words * 100_000)], 100)
        assert len(tokens.ids) == 100
    assert seen[0] < 2000
    assert seen[-1] > 200_000


PEAK = """
import atexit
from rdslib.cli import main
from tests.memory import peak
atexit.register(lambda: print(peak()))
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_length_of_documents(tmp_path, tiny_model, suffix):
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    core = json.loads((model / "tokenizer.json").read_text())
    core["pre_tokenizer"]["use_regex"] = True  # as GPT-2 splits
    (model / "tokenizer.json").write_text(json.dumps(core))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}))
    pool, queries = tmp_path / f"pool.{suffix}", tmp_path / "queries.jsonl"
    long = ("a long word " * 21_000)[:250_000]
    rows = ({"prompt": f"What is {number}?", "completion": f"{number} {long}"} for number in range(1024))
    if suffix == "jsonl":
        with pool.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), pool)
    queries.write_text(json.dumps({"prompt": "What is 3?", "completion": "4"}) + "\n")
    options = {"pool": pool, "queries": queries, "model": model, "out": tmp_path / "out.jsonl"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "select", "-k", "3", *arguments],
        env={**os.environ, "RDSLIB_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2 * 2**30
