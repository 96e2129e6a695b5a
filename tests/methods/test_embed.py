"""Sentence embeddings: a tiny model against a naive pooling one text at a time, and the real small one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rdslib.data.chat import Sample, format_chat, user_assistant
from rdslib.data.download import cache_dir
from rdslib.errors import UserError
from rdslib.files import sha256_of
from rdslib.methods import features
from rdslib.methods.base import COST, Extraction, Preparation, ScoringInputs
from rdslib.methods.embed import EMBED_MINILM, MINILM, NV, SentenceEmbedding, unpack
from rdslib.models.flops import FORWARD
from rdslib.models.loading import load_tokenizer
from rdslib.params import Download, Embedder, Settings
from rdslib.profiles import load_profile

CUT = 50
INSTRUCTION = "find what is near: "
SAMPLES = [
    Sample(str(i), "s", user_assistant("abcdefghijk"[i:] + "z" * (7 * i % 30), "xyz"[: i % 3]))
    for i in range(11)
]


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    """On a GPU as well, so that the naive version gives the same numbers."""
    monkeypatch.setattr("rdslib.models.device.compute_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def tiny_bert(tiny_model, tmp_path_factory):
    """The folder of a random sentence-transformers model whose tokens are bytes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    plain, folder = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("sentences")
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(plain)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), Pooling(16, "mean")]).save(str(folder))
    return folder


def embedder(path, **changes):
    values = {"max_length": CUT, "batch_size": 4, "query_instruction": INSTRUCTION}
    return Embedder(path=path and str(path), **{**values, **changes})


def settings(downloads=None, **embedders):
    """What an embedding reads of settings."""
    return Settings.model_construct(downloads=downloads or {}, embedders=embedders)


def prepared(extractor, given, folder):
    folder.mkdir(exist_ok=True)
    counts = extractor.prepare(Preparation(given, folder, [], {}, folder, None, cache_dir()))
    assert counts["flops"] == 0
    return folder


def extract(extractor, given, folder, samples=SAMPLES, queries=False):
    seen = []
    opened = extractor.open(Extraction(given, folder, folder, ("sentence",), queries))
    made = opened.make(opened.read(samples), seen.extend)
    assert sorted(seen) == list(range(len(samples)))
    return made


def naive(folder, text):
    """One text: the mean of the last hidden states of its tokens, of length 1, and how many they are."""
    from transformers import AutoTokenizer, BertModel

    ids = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=CUT)["input_ids"]
    with torch.inference_mode():
        mean = BertModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
    return (mean / mean.norm()).numpy(), len(ids)


def test_scores_are_cosines_of_naive_embeddings(tiny_bert, tmp_path):
    from transformers import BertModel

    given = settings(minilm=embedder(tiny_bert))
    folder = prepared(MINILM, given, tmp_path / "prepared")
    queries = SAMPLES[3:5]
    made = extract(MINILM, given, folder), extract(MINILM, given, folder, queries, queries=True)
    for name, rows in zip(("pool", "queries"), made, strict=True):
        (tmp_path / name).mkdir()
        sentences = rows.rows["sentence"]
        assert sentences.dtype == np.float16
        features.write(tmp_path / name / features.shard_name("sentence", 0), sentences[:6])
        features.write(tmp_path / name / features.shard_name("sentence", 6), sentences[6:])
    folders = [{"minilm.sentence": tmp_path / name} for name in ("pool", "queries")]
    blocks = list(EMBED_MINILM.blocks(ScoringInputs(["s"] * len(SAMPLES), 0, *folders)))
    scores = np.concatenate([block for _, block in blocks], axis=1)

    texts = [format_chat(sample.messages, "") for sample in SAMPLES]
    pool = [naive(tiny_bert, text) for text in texts]
    # The instruction stands before queries only.
    wanted = [naive(tiny_bert, INSTRUCTION + text) for text in texts[3:5]]
    expected = [[np.dot(q, d) for d, _ in pool] for q, _ in wanted]
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    assert np.ptp(expected) > 0.05
    lengths = np.array([length for _, length in pool])
    assert lengths.max() == CUT
    assert lengths.min() < CUT
    assert made[0].counts == {"tokens": lengths.sum()}
    assert made[1].counts == {"tokens": sum(length for _, length in wanted)}
    bert = BertModel.from_pretrained(tiny_bert)
    size = sum(p.numel() for p in bert.parameters()) - bert.embeddings.word_embeddings.weight.numel()
    np.testing.assert_allclose(made[0].rows[COST], FORWARD * size * lengths)


def test_a_models_limit_holds_and_its_end_token_is_added_where_it_wants_one(tiny_bert, tmp_path):
    given = settings(minilm=embedder(tiny_bert, max_length=2048))
    folder = prepared(MINILM, given, tmp_path / "prepared")
    long, short = (Sample("0", "s", user_assistant("x" * length, "y")) for length in (100, 1))
    assert extract(MINILM, given, folder, [long]).counts == {"tokens": 64}
    ended = SentenceEmbedding("minilm", embedder(tiny_bert), end=True)
    found = extract(ended, settings(), folder, [short]).rows["sentence"][0]
    expected, _ = naive(tiny_bert, format_chat(short.messages, "") + "</s>")
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_model_is_unpacked_from_a_download(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    shutil.copytree(tiny_bert, tmp_path / "package" / "model")
    (tmp_path / "package" / "__init__.py").touch()
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path, "package"))
    download = Download(uri=f"file:{archive}", sha256=sha256_of(archive))
    packed = embedder(None, download="d", members="package/model/*")
    given = settings({"d": download}, minilm=packed)
    folder = prepared(MINILM, given, tmp_path / "unpacked")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "1_Pooling/config.json"} <= names
    assert "__init__.py" not in names
    direct = settings(minilm=embedder(tiny_bert))
    found = extract(MINILM, given, folder).rows["sentence"]
    expected = extract(MINILM, direct, prepared(MINILM, direct, tmp_path / "pointer")).rows["sentence"]
    np.testing.assert_array_equal(found, expected)
    # Another pin is another model.
    other = settings({"d": download.model_copy(update={"sha256": "0" * 64})}, minilm=packed)
    assert MINILM.key(given) != MINILM.key(other)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="leads out of the folder"):
        unpack({"a/config.json": b"", name: b""}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_profile_chooses_the_model_and_keeps_the_instruction():
    instruction = "Instruct: Given a sample, find the passages closest to that sample.\nQuery: "
    given = {"path": "folder", "max_length": 8, "batch_size": 2}
    chosen = NV.params(settings(nv=Embedder(**given)))
    assert (chosen.path, chosen.query_instruction) == ("folder", instruction)
    assert NV.params(settings(nv=Embedder(**given, query_instruction=""))).query_instruction == ""


def test_code_of_a_model_is_not_run_unless_allowed(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    message = (
        r"^embedder 'nv': nvidia/NV-Embed-v2 runs code that comes with it; if you trust its authors, set "
        r"embedders\.nv\.trust_remote_code: true in the profile, beside path: nvidia/NV-Embed-v2, "
        r"max_length: 8192, batch_size: 4$"
    )
    with pytest.raises(UserError, match=message):
        prepared(NV, settings(), tmp_path / "nv")

    folder = shutil.copytree(tiny_bert, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError('mine')\n")
    with pytest.raises(UserError, match=r"set embedders\.minilm\.trust_remote_code: true"):
        prepared(MINILM, settings(minilm=embedder(folder)), tmp_path / "a")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match=r"cannot be loaded \(mine\)"):
        prepared(MINILM, settings(minilm=embedder(folder, trust_remote_code=True)), tmp_path / "b")
    assert (tmp_path / "ran").exists()


def test_weights_and_contents_are_checked(tiny_bert, tmp_path):
    """A missing layer, or one too many, is an error; a prefix is none; the tokenizer is in the key."""

    def variant(name, change):
        folder = shutil.copytree(tiny_bert, tmp_path / name)
        weights = load_file(folder / "model.safetensors")
        save_file(change(dict(weights)), folder / "model.safetensors", metadata={"format": "pt"})
        return settings(minilm=embedder(folder))

    given = variant("prefixed", lambda w: {f"module.{name}": each for name, each in w.items()})
    found = extract(MINILM, given, prepared(MINILM, given, tmp_path / "a")).rows["sentence"]
    plain = settings(minilm=embedder(tiny_bert))
    expected = extract(MINILM, plain, prepared(MINILM, plain, tmp_path / "b")).rows["sentence"]
    np.testing.assert_array_equal(found, expected)
    # What pools or predicts in ways that are not used may be missing, or more than is needed.
    heads = variant("heads", lambda w: {"cls.predictions.bias": torch.zeros(3)} | without(w, "pooler"))
    prepared(MINILM, heads, tmp_path / "c")
    one = "encoder.layer.1.output.dense.bias"
    lacking = variant("lacking", lambda w: without(w, one))
    with pytest.raises(UserError, match=rf"embedder 'minilm'\).*1 missing \({one}\)"):
        prepared(MINILM, lacking, tmp_path / "d")
    more = variant("more", lambda w: {**w, "encoder.layer.2.output.dense.bias": torch.zeros(16)})
    with pytest.raises(UserError, match=r"1 unexpected \(encoder\.layer\.2"):
        prepared(MINILM, more, tmp_path / "e")
    keys = [MINILM.key(more)]
    with (tmp_path / "more" / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    assert MINILM.key(more) not in keys


def without(weights, start):
    return {name: each for name, each in weights.items() if not name.startswith(start)}


def test_weights_that_are_not_safetensors_are_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no file named model\.safetensors.*writes safetensors"):
        prepared(MINILM, settings(minilm=embedder(folder)), tmp_path / "a")


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_says_what_is_alike(tmp_path):
    from sentence_transformers import SentenceTransformer

    given = load_profile("mini").experiment
    folder = prepared(MINILM, given, tmp_path / "prepared")
    samples = [
        Sample("0", "s", user_assistant("What is the capital of France?", "Paris.")),
        Sample("1", "s", user_assistant("Which city is France's capital?", "It is the city of Paris.")),
        Sample("2", "s", user_assistant("Sort a list in Python.", "Use sorted(items).")),
    ]
    found = extract(MINILM, given, folder, samples).rows["sentence"].astype(np.float32)
    cosines = found @ found.T
    assert cosines[0, 1] > 0.8 > 0.5 > max(cosines[0, 2], cosines[1, 2])
    model = SentenceTransformer(str(folder), device="cpu")
    texts = [format_chat(sample.messages, "") for sample in samples]
    expected = [model.encode(text, normalize_embeddings=True) for text in texts]
    np.testing.assert_allclose(found, expected, atol=2e-3)
