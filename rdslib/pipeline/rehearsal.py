"""A rehearsal: every step of a profile's study, in minutes, on made-up files and with tiny random models.

Every count of the profile becomes its fourth root, rounded up (`small`): of samples, queries, tests, budgets,
batches, shards, clusters and LESS's dimensions; that of a smaller pool twice as many. A budget of the whole
pool stays one. Learning rates, epochs, ranks, lengths, the grid and its methods stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rdslib.errors import UserError
from rdslib.files import sha256_of
from rdslib.methods import EXTRACTORS
from rdslib.methods.embed import SentenceEmbedding
from rdslib.params import (
    Download,
    Embedder,
    Experiment,
    Model,
    Profile,
    RandomModel,
    Stated,
    Train,
)
from rdslib.pipeline.made_up import TASKS, pool_file

# The names of a rehearsal's profile and of the folder of its figures, in its home.
PROFILE, FIGURES = "rehearsal.yaml", "figures"
# Where a profile states no architecture, and how long the context of the random models is.
TINY, CONTEXT = 64, 2048


def small(count: int) -> int:
    """Return the fourth root of a count, rounded up."""
    return math.ceil(round(count ** (1 / 4), 9))


def rehearse(profile: Profile, folder: Path, home: Path) -> Path:
    """Write into `home` what a rehearsal of a profile needs, and return the path of the profile that does it.

    `folder` is that of the profile's file. The same profile gives the same files.

    Raises:
        UserError: It has no experiment, or readers for whose files there are no made-up ones.
    """
    e = profile.experiment
    if e is None:
        raise UserError(f"profile {profile.name}: has no experiment, so that there is nothing to rehearse")
    home.mkdir(parents=True, exist_ok=True)
    downloads = _downloads(profile.name, e, home / "made-up")
    whole = sum(source.samples for source in e.pool.sources)
    sources = [
        source.model_copy(
            update={
                "published": {name: small(count) for name, count in (source.published or {}).items()},
                "samples": sum(map(small, (source.published or {}).values())),
            }
        )
        for source in e.pool.sources
    ]
    size = sum(source.samples for source in sources)

    def budget(count: int) -> int:
        return size if count == whole else small(count)

    def trained(train: Train) -> Train:
        # On one device, whatever the profile has several for.
        batch = small(train.batch_size)
        # Two micro-batches an update: gradients are added up, and there are few passes.
        alone = {"accelerate": None, "batch_size": batch, "micro_batch_size": -(-batch // 2)}
        return train.model_copy(update=alone)

    grid = e.grid
    update: dict[str, Any] = {
        "plugins": tuple(str((folder / each).resolve()) for each in e.plugins),
        "downloads": downloads,
        "model": Model(
            title=f"a random model of two layers, in place of {e.model.title}",
            note="a rehearsal, its scores mean nothing",
            path=str(_model(e.stated, home / "model")),
        ),
        "pool": e.pool.model_copy(
            update={
                "sources": tuple(sources),
                # Twice as many, since of a random model's samples IFD drops about half.
                "subsets": {name: 2 * small(count) for name, count in e.pool.subsets.items()},
            }
        ),
        "tasks": tuple(
            task.model_copy(update={"queries": small(task.queries), "test": small(task.test)})
            for task in e.tasks
        ),
        "encode": e.encode.model_copy(update={"shard_size": small(e.encode.shard_size)}),
        "embedders": {
            name: Embedder(
                path=str(home / "sentences"), max_length=CONTEXT, batch_size=small(each.params(e).batch_size)
            )
            for name, each in EXTRACTORS.items()
            if isinstance(each, SentenceEmbedding)
        },
        "train": trained(e.train),
        "evaluate": e.evaluate.model_copy(
            update={
                "max_length": min(e.evaluate.max_length, CONTEXT),
                "bootstrap": small(e.evaluate.bootstrap),
            }
        ),
        "grid": grid.model_copy(
            update={
                "single_task_budget": budget(grid.single_task_budget),
                "source_budgets": tuple(map(budget, grid.source_budgets)),
                "quantiles": grid.quantiles and grid.quantiles.model_copy(update={"budget": 1}),
                "multi_task_budgets": tuple(map(budget, grid.multi_task_budgets)),
                "table_budget": None if grid.table_budget is None else budget(grid.table_budget),
            }
        ),
        "stated": None,
    }
    if e.ifd is not None:
        counts = {"clusters": small(e.ifd.clusters), "per_cluster": small(e.ifd.per_cluster)}
        update["ifd"] = e.ifd.model_copy(update={**counts, "train": trained(e.ifd.train)})
    if e.less is not None:
        dimension = {"dimension": small(e.less.dimension)}
        update["less"] = e.less.model_copy(update={**dimension, "train": trained(e.less.train)})
    if e.loss_drop is not None:
        update["loss_drop"] = e.loss_drop.model_copy(update={"train": trained(e.loss_drop.train)})
    _sentences(home / "model", home / "sentences")
    rehearsed = profile.model_copy(
        update={
            "name": f"{profile.name}-rehearsal",
            "title": f"A rehearsal of {profile.name}: made-up rows and random models",
            "experiment": e.model_copy(update=update),
        }
    )
    path = home / PROFILE
    path.write_text(yaml.safe_dump(rehearsed.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    return path


def _downloads(name: str, e: Experiment, folder: Path) -> dict[str, Download]:
    """The downloads of tasks and pool as folders of made-up files."""
    files: dict[str, dict[str, bytes]] = {}
    for task in e.tasks:
        if task.reader not in TASKS:
            raise UserError(
                f"profile {name}: the reader {task.reader} has no made-up files to rehearse with; there "
                f"are those of {', '.join(TASKS)}"
            )
        made = TASKS[task.reader](small(task.queries), small(task.test))
        for download, found in zip(task.downloads, made, strict=True):
            files.setdefault(download, {}).update(found)
    for source in e.pool.sources:
        if source.published is None or source.download is None:
            raise UserError(
                f"profile {name}: the pool source {source.name!r} cannot be rehearsed; only whole data sets "
                "of the hub, with `published` counts, can"
            )
        counts = {pattern: small(count) for pattern, count in source.published.items()}
        files[source.download] = {"data.jsonl": pool_file(counts)}
    downloads = {}
    for download, found in files.items():
        for path, data in found.items():
            file = folder / download / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        pins = {path: sha256_of(folder / download / path) for path in found}
        downloads[download] = Download(uri=f"file:{folder / download}/", files=pins)
    return downloads


def _model(stated: Stated | None, folder: Path) -> Path:
    """A random Llama of two layers, in the proportions that a profile states; its tokens are bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rdslib.models.loading import load_tokenizer, make_random

    make_random(RandomModel(layers=1, hidden_size=8, heads=1), 0, folder)
    given: Mapping[str, int] = stated.architecture if stated else {}
    hidden, heads = given.get("hidden_size", 1), given.get("num_attention_heads", 1)
    tokenizer = load_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TINY,
        intermediate_size=TINY * given.get("intermediate_size", 2 * hidden) // hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=max(1, 4 * given.get("num_key_value_heads", heads) // heads),
        max_position_embeddings=CONTEXT,
        # Large, so that of some samples a prompt makes the response likelier: IFD drops all others.
        initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _sentences(model: Path, folder: Path) -> None:
    """A random sentence-embedding model of two layers, in place of each that a study uses."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    from rdslib.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    plain = folder / "plain"
    tokenizer.save_pretrained(plain)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TINY,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * TINY,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), Pooling(TINY, "mean")]).save(str(folder))
