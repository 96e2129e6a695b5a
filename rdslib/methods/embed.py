"""Embed: cosine similarity of sentence embeddings, from a model made for it (paper, section 2)."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.archives import Archives
from rdslib.data.chat import Sample, format_chat, groups_of
from rdslib.errors import UserError
from rdslib.methods.base import (
    COST,
    Extract,
    Extracted,
    Extraction,
    Extractor,
    InnerProduct,
    Preparation,
    of_one_pass,
)  # fmt: skip
from rdslib.models.flops import FORWARD, CostModel, one_pass_flops
from rdslib.params import Embedder, Settings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


class SentenceEmbedding(Extractor):
    """`<name>.sentence`: float16 [samples, dimension], of length 1, of the conversation as text.

    The text is the Tulu format without end-of-sequence tokens, cut on the right. Before a query sample's
    text stands the model's instruction, if it has one.
    """

    sees = ("messages",)
    uses_model = False
    packages = ("embed", "sentence_transformers")
    prepares = True
    version = 2

    def __init__(self, name: str, default: Embedder, end: bool = False, runs_code: bool = False) -> None:
        """Describe a model: the one that is used where a profile's `embedders` has none of this name.

        Its instruction also holds for one that gives none. `end`: whether texts end with its
        end-of-sequence token; `runs_code`: whether it runs code that comes with it.
        """
        self.name, self.default, self.end, self.runs_code = name, default, end, runs_code

    def params(self, settings: Settings) -> Embedder:
        """Return the embedding model, and how it is used."""
        given = settings.embedders.get(self.name, self.default)
        if "query_instruction" in given.model_fields_set:
            return given
        return given.model_copy(update={"query_instruction": self.default.query_instruction})

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return the embedding model and how it is used; nothing of the language model."""
        params = self.params(settings)
        from rdslib.models.folder import contents_of

        pinned = settings.downloads[params.download].model_dump() if params.download else None
        found = {"contents": contents_of(params.path)} if params.path else {}
        return {"embedder": params.model_dump(mode="json"), "download": pinned, **found}

    def prepare(self, given: Preparation) -> Mapping[str, Any]:
        """Unpack the model from its download, or point to it, and load it once to see that it works."""
        from rdslib.models.folder import point_to

        params = self.params(given.settings)
        if params.download is not None:
            assert params.members is not None
            archives = Archives(given.settings.downloads, given.downloads)
            unpack(archives.members(params.download, [params.members]), given.out)
        else:
            assert params.path is not None
            if self.runs_code and params.path == self.default.path and not params.trust_remote_code:
                raise self._needs_trust(params)  # before it is fetched
            point_to(params.path, given.out)
        return {"parameters": parameters(self._load(params, given.out)), "flops": 0}

    def cost_model(
        self, base: CostModel, settings: Settings, counts: Mapping[str, Any], pool_size: int
    ) -> CostModel:
        """Put the embedding model's size in."""
        return replace(base, embedder_parameters=counts["parameters"])

    def open(self, given: Extraction) -> Extract:
        """Load the embedding model."""
        from rdslib.models.loading import running

        params = self.params(given.settings)
        assert given.prepared is not None
        name = str(params.path or params.download)
        model = self._load(params, given.prepared)
        prompt = params.query_instruction if given.queries else ""
        end = str(model.tokenizer.eos_token) if self.end else ""
        cost = FORWARD * parameters(model)

        def read(samples: Sequence[Sample]) -> list[str]:
            return [format_chat(sample.messages, "") + end for sample in samples]

        def make(texts: Sequence[str], done: Callable[[Sequence[int]], object]) -> Extracted:
            asked, most = [prompt + text for text in texts], model.max_seq_length
            groups = (asked[some] for some in groups_of([len(text) for text in asked]))
            encoded = (
                model.tokenizer(some, truncation=True, max_length=most)["input_ids"] for some in groups
            )
            lengths = np.array([len(row) for rows in encoded for row in rows])
            order = np.argsort(-lengths, kind="stable")
            rows = []
            for start in range(0, len(order), params.batch_size):
                batch = order[start : start + params.batch_size].tolist()
                # An empty prompt, and not None, for which a model may have a default.
                with running(name):
                    found = model.encode(
                        [texts[i] for i in batch], prompt=prompt, batch_size=len(batch),
                        show_progress_bar=False,
                    ).astype(np.float32)  # fmt: skip
                    if not np.isfinite(found).all():
                        raise RuntimeError("what it gives is no number: NaN or infinite")
                # Here, since the lengths of bfloat16 vectors differ in the third digit.
                length = np.linalg.norm(found, axis=1, keepdims=True)
                rows.append((found / np.maximum(length, 1e-12)).astype(np.float16))
                done(batch)
            sentences = np.concatenate(rows)[np.argsort(order)]
            counts = {"tokens": int(lengths.sum())}
            return Extracted({"sentence": sentences, COST: cost * lengths.astype(np.float64)}, counts)

        return Extract(read, make)

    def _load(self, params: Embedder, prepared: Path) -> SentenceTransformer:
        """The embedding model on this device, in `compute_dtype`.

        The transformer's weights are read as safetensors alone; what the layers after it have in another form
        is read without running pickled code.
        """
        from sentence_transformers import SentenceTransformer

        from rdslib.models.device import compute_dtype, device, keep_freed_memory
        from rdslib.models.folder import check_files, pointed
        from rdslib.models.loading import checked_weights, fault

        name = params.path or params.download
        keep_freed_memory()
        dtype = compute_dtype()
        folder = pointed(prepared)
        check_files(folder)
        try:
            # A head is not used, nor what some models have to pool with.
            with checked_weights(f"{name} (embedder {self.name!r})", r"^pooler\.", r"^(?!.*\.\d+\.)"):
                model = SentenceTransformer(
                    str(folder),
                    device=str(device()),
                    trust_remote_code=params.trust_remote_code,
                    model_kwargs={"use_safetensors": True, "dtype": dtype},
                )
        except UserError:
            raise
        except Exception as error:  # a model that runs code may fail in any way
            if "trust_remote_code" in str(error):
                raise self._needs_trust(params) from error
            cure = f"give a sentence-transformers model with safetensors weights under embedders.{self.name}"
            raise fault(f"embedder {self.name!r}: {name} cannot be loaded", error, cure) from error
        limit = model.max_seq_length
        model.max_seq_length = params.max_length if limit is None else min(limit, params.max_length)
        return model.to(dtype).eval()

    def _needs_trust(self, params: Embedder) -> UserError:
        """How to allow a model to run the code that comes with it, in one line."""
        fields = params.model_dump(include={"download", "members", "path", "max_length", "batch_size"})
        beside = ", ".join(f"{key}: {value}" for key, value in fields.items() if value is not None)
        return UserError(
            f"embedder {self.name!r}: {params.path or params.download} runs code that comes with it; if you "
            f"trust its authors, set embedders.{self.name}.trust_remote_code: true in the profile, "
            f"beside {beside}"
        )


def unpack(members: Mapping[str, bytes], folder: Path) -> None:
    """Write members of an archive into `folder`, by their names below the folder that they have in common."""
    for name in members:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"member {name!r}: leads out of the folder it is unpacked to; use another archive"
            )
    common = os.path.commonpath([PurePosixPath(name).parent for name in members])
    for name, data in members.items():
        target = folder / PurePosixPath(name).relative_to(common)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def parameters(model: torch.nn.Module) -> int:
    """Count N of the cost model: all parameters but the word embeddings, the largest table there is."""
    import torch

    tables = [table.weight.numel() for table in model.modules() if isinstance(table, torch.nn.Embedding)]
    return sum(p.numel() for p in model.parameters()) - max(tables, default=0)


# Not the paper's, but small and to be had from a package.
MINILM = SentenceEmbedding(
    "minilm", Embedder(path="sentence-transformers/all-MiniLM-L6-v2", max_length=256, batch_size=32)
)
# The model itself reads no more than 512 tokens.
GTR = SentenceEmbedding(
    "gtr", Embedder(path="sentence-transformers/gtr-t5-base", max_length=512, batch_size=32)
)
# The instruction and the length are the reference code's; the form of the instruction, and the token at the
# end, are the model card's. The code that comes with it was written for transformers 4.42, and is not known
# to run with 5.
NV = SentenceEmbedding(
    "nv",
    Embedder(
        path="nvidia/NV-Embed-v2",
        query_instruction="Instruct: Given a sample, find the passages closest to that sample.\nQuery: ",
        max_length=8192,
        batch_size=4,
    ),
    end=True,
    runs_code=True,
)


def _formula(pool_size: int, samples: int, cost: CostModel) -> float:
    """One forward pass over the pool by the embedding model."""
    return one_pass_flops(pool_size, replace(cost, parameters=cost.embedder_parameters))


EMBED_MINILM = InnerProduct("embed_minilm", "minilm.sentence", "Embed (MiniLM)", "#882255", formula=_formula)
EMBED_GTR = InnerProduct("embed_gtr", "gtr.sentence", "Embed (GTR)", "#009E73", formula=_formula)
EMBED_NV = InnerProduct("embed_nv", "nv.sentence", "Embed (NV)", "#56B4E9", formula=of_one_pass)
