"""What `rds select` writes is what trainers read: it goes into TRL's as it is, and a model learns from it."""

from __future__ import annotations

import json
import math
import socket

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from rdslib.commands.app import app
from rdslib.data.chat import user_assistant

# It asks for newer data sets than we do.
trl = pytest.importorskip("trl")

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
K, STEPS = 6, 3


def question(i):
    return f"What is {i} + {i}?"


def answer(i):
    return f"The sum of {i} and {i} is {2 * i}."


def sharegpt(i):
    turns = [{"from": "human", "value": question(i)}, {"from": "gpt", "value": answer(i)}]
    return {"conversations": turns, "system": "Add up."}


FORMS = {
    # A field that is not in every row: where the first row lacks it, a reader must find it all the same.
    "messages": lambda i: (
        {"id": f"m{i}", "messages": user_assistant(question(i), answer(i))} | ({"note": "é"} if i % 2 else {})
    ),
    "prompt_completion": lambda i: {"prompt": question(i), "completion": answer(i)},
    "messages on both sides": lambda i: {
        "prompt": [{"role": "user", "content": question(i)}],
        "completion": [{"role": "assistant", "content": answer(i)}],
    },
    "alpaca": lambda i: {"instruction": question(i), "input": "", "output": answer(i)},
    "sharegpt": sharegpt,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def offline(monkeypatch):
    """Nothing here needs the network."""

    def refuse(*_):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def selected(form, out, tiny_model, home, tmp_path, *options):
    """Writes the best K of a pool of a form to `out`, by the command."""
    pool, queries = tmp_path / "pool.jsonl", tmp_path / "queries.jsonl"
    pool.write_text("".join(json.dumps(FORMS[form](i)) + "\n" for i in range(20)))
    queries.write_text(json.dumps({"prompt": question(30), "completion": answer(30)}))
    arguments = ["--pool", pool, "--queries", queries, "--model", tiny_model, "-k", K, "--out", out, *options]
    done = CliRunner().invoke(app, ["select", *map(str, arguments)], env={"RDSLIB_HOME": str(home)})
    assert done.exit_code == 0, done.output


def train(dataset, tiny_model, folder, **settings):
    """A few steps of TRL's supervised fine-tuning, as its user would take them."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    config = trl.SFTConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=2, learning_rate=1e-3,
        logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, bf16=False, **settings,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model, args=config, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == STEPS
    # A loss of zero would be one over no token at all.
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    after = trainer.model.state_dict()
    changed = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert {name for name in before if "layers" in name} <= changed
    return trainer.train_dataset, tokenizer


CASES = {
    "messages": ("messages", "best.jsonl", ()),
    "messages, compressed": ("messages", "best.jsonl.gz", ()),
    "messages, Parquet": ("messages", "best.parquet", ()),
    "prompt and completion": ("prompt_completion", "best.jsonl", ()),
    "messages on both sides": ("messages on both sides", "best.jsonl", ()),
    "Alpaca as messages": ("alpaca", "best.jsonl", ("--as", "messages")),
    "ShareGPT as messages": ("sharegpt", "best.jsonl", ("--as", "messages")),
    "ShareGPT as messages, Parquet": ("sharegpt", "best.parquet", ("--as", "messages")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trl_trains_on_it_unchanged(case, tiny_model, home, tmp_path, offline):
    form, name, options = CASES[case]
    out = tmp_path / name
    selected(form, out, tiny_model, home, tmp_path, *options)
    kind = "parquet" if name.endswith(".parquet") else "json"
    dataset = datasets.load_dataset(
        kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset["rds_rank"][:] == list(range(K))
    # The loss is over what the assistant says.
    alone = {} if "prompt" in dataset.column_names else {"assistant_only_loss": True}
    tokens, tokenizer = train(dataset, tiny_model, tmp_path / "out", **alone)
    learned = [tokenizer.decode([label for label in row["labels"] if label >= 0]) for row in tokens]
    answers = {answer(i) + tokenizer.eos_token for i in range(20)}
    assert len(set(learned)) == K
    assert {text.strip() for text in learned} <= answers
    asked = [tokenizer.decode(row["input_ids"]) for row in tokens]
    assert all(("<|system|>\nAdd up." in text) == (form == "sharegpt") for text in asked)


def test_parquet_has_the_fields_of_every_row(tiny_model, home, tmp_path):
    selected("messages", tmp_path / "best.jsonl", tiny_model, home, tmp_path)
    selected("messages", tmp_path / "best.parquet", tiny_model, home, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text(encoding="utf-8").splitlines()]
    names = {name for row in rows for name in row}
    assert names > set(rows[0])
    table = pq.read_table(tmp_path / "best.parquet")
    assert set(table.column_names) == names
    assert table.to_pylist() == [{name: row.get(name) for name in table.column_names} for row in rows]
    assert table.schema.field("messages").type == pa.list_(
        pa.struct({"role": pa.string(), "content": pa.string()})
    )
