"""Typed parameters of a profile, read from `params/<profile>.yaml`.

A profile is either `experiment: null` (its figures show published numbers alone) or a whole study:
downloads, model, pool, tasks, encoding, training, evaluation, and the grid of runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from rdslib.errors import reason_of

_PACKAGE = Path(__file__).resolve().parent
# The folder of params/ and notebooks/: inside the package where a wheel was installed, else the checkout.
ROOT = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent

# What a figure shows: what was measured here, what the paper published, or both side by side.
Show = Literal["measured", "published", "both"]


class Strict(BaseModel):
    """Unknown keys are errors, values are not coerced, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    # Fields that keys of steps have only where they are set, such as those that came after the first keys.
    unset: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {k: v for k, v in dump(self).items() if k not in self.unset or v != fields[k].default}


Positive = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# A line of what `sha256sum` writes.
PIN = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def _in_full(value: str | None, info: ValidationInfo) -> str | None:
    """What a profile names, from the profile's folder, else from the working folder; a hub name as it is."""
    if value and info.context and not Path(value).expanduser().is_absolute():
        return os.path.abspath(found) if (found := _there(value, info.context["folder"], Path())) else value
    return value


def _there(value: str, *folders: Path) -> Path | None:
    """A path in the first of some folders that has it; None if none has."""
    return next((folder / value for folder in folders if (folder / value).exists()), None)


class Download(Strict):
    """A file and where it comes from: `file:PATH`, or one of `rdslib.data.download.SHAPES`.

    Or a folder of files: `uri` ends in `/`, and `files` maps the path of each below it to its SHA-256.
    A profile gives `files` as the path of a `sha256sum` listing, relative to the profile's folder; it is
    read when the profile is, so that a profile's hash follows from the checksums. A folder on the hub may
    have none: its commit says what it holds, or, of a branch, whatever is there when it is read.
    """

    unset = ("sha256", "files")
    uri: str
    sha256: Sha256 | None = None
    files: dict[str, Sha256] | None = None

    @field_validator("uri")
    @classmethod
    def _file_in_full(cls, value: str, info: ValidationInfo) -> str:
        scheme, _, path = value.partition(":")
        slash = "/" if path.endswith("/") else ""
        return f"file:{(_in_full(path, info) or '').rstrip('/')}{slash}" if scheme == "file" else value

    @field_validator("files", mode="before")
    @classmethod
    def _listed(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if not info.context:
            raise ValueError("a listing is read in a profile alone; give a mapping of paths to checksums")
        # A copy of one of our profiles, elsewhere, names our listings.
        folder = info.context["folder"]
        return read_pins(_there(value, folder, ROOT / "params") or folder / value)

    @model_validator(mode="after")
    def _one_kind(self) -> Download:
        folder = self.uri.endswith("/")
        listed = self.files is not None or self.uri.startswith("hf-dataset:")
        if (folder and not listed) or (self.files is not None and not folder) or folder == bool(self.sha256):
            raise ValueError("needs exactly one of sha256 (a file) or files (a folder, whose uri ends in /)")
        for path in self.files or ():
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"lists {path!r}, which is not below the folder")
        return self


class RandomModel(Strict):
    """A random-weight Llama with a byte-level tokenizer, for tests."""

    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    heads: int = Field(gt=0)


class Model(Strict):
    """The language model: a GGUF member of a download, a folder or hub name, or random weights."""

    unset = ("load_in_8bit",)
    title: str
    download: str | None = None
    member: str | None = None
    path: str | None = None
    random: RandomModel | None = None
    # What a figure must say of the model, such as "instruct model, not a base model".
    note: str = ""
    # Over all GPUs, and what does not fit there in memory or on disk: a model that is larger than one GPU.
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        default=None, exclude=True
    )
    # Round the weights to 8 bits (bitsandbytes) where features are made of the model as it is.
    load_in_8bit: bool = False

    _path_in_full = field_validator("path")(_in_full)

    @model_validator(mode="after")
    def _one_kind(self) -> Model:
        kinds = [self.download is not None, self.path is not None, self.random is not None]
        if sum(kinds) != 1 or (self.download is None) != (self.member is None):
            raise ValueError("needs exactly one of download (with member), path or random")
        return self


# Where no method is asked for that uses a model.
NO_MODEL = Model(title="no model", path="")


class Source(Strict):
    """One data set of the pool: `samples` rows drawn with the seed from what `reader` yields."""

    unset = ("published",)
    name: str
    reader: str
    samples: int = Field(gt=0)
    download: str | None = None
    # Glob patterns of the archive members to read, in the order in which they are to be read.
    members: tuple[str, ...] = ()
    # How many samples each source within the data set is known to have, by a pattern of its name. All rows
    # are then read, one after another, and a line says where these are not what is found.
    published: dict[str, int] | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Source:
        if self.published is not None and sum(self.published.values()) != self.samples:
            total = sum(self.published.values())
            raise ValueError(f"the published counts add up to {total}, and samples is {self.samples}")
        return self


class Pool(Strict):
    """The pool D, and the smaller pools drawn from it (name to number of samples)."""

    unset = ("near_duplicates", "decontaminate")
    sources: tuple[Source, ...] = Field(min_length=1)
    # Longer samples (characters of all messages) are left out, so that nothing is cut short; null for none.
    max_chars: int | None = Field(gt=0)
    # Whether samples that are nearly an earlier one go too, and not only exact duplicates.
    near_duplicates: bool = False
    subsets: dict[str, Positive] = {}
    # Whether samples that hold a message of a test sample are left out.
    decontaminate: bool = True


class Task(Strict):
    """One target task: which reader makes it, and how many query and test samples to keep."""

    name: str
    reader: str
    downloads: tuple[str, ...] = ()
    queries: int = Field(gt=0)
    # 0 is that of a set of queries alone, for which RDS+ selects, and which tests nothing.
    test: int = Field(ge=0)
    # What a model is asked, and how its response is scored (`rdslib/tasks/*.yaml`), beside bits per byte.
    protocol: str | None = None
    # What stands in for the paper's samples, shown wherever the task is shown.
    note: str = ""


class Encode(Strict):
    """One forward pass over the pool."""

    unset = ("template",)
    max_length: int = Field(gt=0)
    # Tokens of a batch, padding included; 0 is what suits the device.
    token_budget: int = Field(default=0, ge=0)
    shard_size: int = Field(gt=0)
    # Who writes a conversation as text, for the features `lm` alone: Tulu's format, as in the paper, or the
    # tokenizer's own chat template.
    template: Literal["tulu", "model"] = "tulu"

    @property
    def key(self) -> dict[str, Any]:
        """What features depend on: not the size of shards."""
        return self.model_dump(exclude={"shard_size"})


class Train(Strict):
    """Fine-tuning (paper, section 5, scaled)."""

    unset = ("accelerate",)
    method: Literal["full", "lora"]
    epochs: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup_ratio: float = Field(ge=0, lt=1)
    batch_size: int = Field(gt=0)
    micro_batch_size: int = Field(gt=0)
    max_length: int = Field(gt=0)
    lora_rank: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    # How many of the last layers get LoRA matrices; the gradient need not go further down. 0 is all.
    lora_layers: int = Field(default=0, ge=0)
    # On several processes, with FSDP: a file of accelerate's under `params/accelerate/`, or the path of one.
    accelerate: str | None = None
    # Compute what layers give anew in the backward pass, rather than keep it: no number changes.
    gradient_checkpointing: bool = Field(default=False, exclude=True)

    @model_validator(mode="after")
    def _shards_all_weights(self) -> Train:
        if self.accelerate is not None and self.method != "full":
            raise ValueError("has accelerate, which is for all weights; set method to full, or leave it out")
        return self


class Evaluate(Strict):
    """Evaluation: bits per byte of the reference answers, and accuracy by likelihood."""

    unset = ("engine",)
    max_length: int = Field(gt=0)
    token_budget: int = Field(default=0, ge=0)
    bootstrap: int = Field(gt=0)
    # The most tokens of a response that a protocol has a model write; 0 is as many as the protocol says.
    max_response: int = Field(default=0, ge=0)
    # What writes the responses that protocols ask for.
    engine: Literal["transformers", "vllm"] = "transformers"


class Embedder(Strict):
    """A sentence-embedding model: the members of a download that match `members`, or a folder or hub name."""

    download: str | None = None
    members: str | None = None
    path: str | None = None
    # What stands before a query sample's text, for models that take an instruction.
    query_instruction: str = ""
    # Whether the model may run the code that comes with it. Only for models whose authors you trust.
    trust_remote_code: bool = False
    max_length: int = Field(gt=0)
    batch_size: int = Field(gt=0)

    _path_in_full = field_validator("path")(_in_full)

    @model_validator(mode="after")
    def _one_kind(self) -> Embedder:
        given = [each is not None for each in (self.download, self.members, self.path)]
        if given not in ([True, True, False], [False, False, True]):
            raise ValueError("needs exactly one of download (with members) or path")
        return self


class Ifd(Strict):
    """IFD: the pre-experienced model is trained on a few samples of each cluster of prompts (section 2)."""

    # The pool whose prompts are clustered.
    pool: str = "all"
    clusters: int = Field(default=100, gt=0)
    per_cluster: int = Field(default=10, gt=0)
    train: Train


class Less(Strict):
    """LESS: LoRA warm-up on a share of the pool, a checkpoint an epoch; projected gradients (section 2)."""

    warmup_share: float = Field(default=0.05, gt=0, le=1)
    train: Train
    dimension: int = Field(default=8192, gt=0)


class LossDrop(Strict):
    """Loss drop: how the model is trained on a task's queries."""

    train: Train


class Quantiles(Strict):
    """The quantile experiment: what a pool's samples are worth, from those nearest the queries to the last.

    Each method puts the pool in order for each task; of every one of `parts` equal parts of it `budget`
    samples are drawn and trained on.
    """

    methods: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    pool: str
    parts: int = Field(default=10, gt=1)
    budget: int = Field(gt=0)


class Grid(Strict):
    """Which runs the study is made of."""

    unset = ("table_methods", "table_budget", "quantiles", "selectors")
    # Figure 1 and Table 1: one selection a task, from each pool, by the methods named for it.
    single_task: dict[str, tuple[str, ...]]
    single_task_budget: int = Field(gt=0)
    # The same by other selectors than round-robin, of the methods that look at queries.
    selectors: tuple[str, ...] | None = None
    # Table 6: what RDS+ pools over, one selection a task, from this pool.
    ablation_methods: tuple[str, ...] = ()
    ablation_pool: str = "all"
    # Figure 7: from which sources each method draws, at these budgets.
    source_budgets: tuple[Positive, ...] = ()
    # Figures 3 and 4: one selection for all tasks, from the whole pool.
    multi_task_methods: tuple[str, ...]
    multi_task_budgets: tuple[Positive, ...]
    # Tables 2 and 3: methods beside these, at one budget: by default the largest of the above.
    table_methods: tuple[str, ...] = ()
    table_budget: int | None = Field(default=None, gt=0)
    # Table 3: as Table 2, from another pool; none where it is not given.
    second_pool: str | None = None
    quantiles: Quantiles | None = None
    seeds: tuple[int, ...] = Field(min_length=1)


class StatedEmbedder(Strict):
    """A sentence-embedding model: its parameters but for word embeddings, and the numbers of an embedding."""

    parameters: int = Field(gt=0)
    dimension: int = Field(gt=0)


class Stated(Strict):
    """What `rds plan` reckons with where neither the model nor the pool is there."""

    # The parameters of transformers' `LlamaConfig`.
    architecture: dict[str, int]
    # Of a sample of the pool or of a task, on average, and where these numbers are from.
    prompt_tokens: int = Field(gt=0)
    response_tokens: int = Field(gt=0)
    basis: str
    embedders: dict[str, StatedEmbedder] = {}


class Settings(Strict):
    """What methods need to select: the model, how samples are encoded, and the methods' parameters."""

    unset: ClassVar[tuple[str, ...]] = ("loss_drop",)
    seed: int
    downloads: dict[str, Download] = {}
    model: Model
    encode: Encode
    embedders: dict[str, Embedder] = {}
    ifd: Ifd | None = None
    less: Less | None = None
    loss_drop: LossDrop | None = None

    def check_downloads(self, used: Iterable[str | None]) -> None:
        """Raise ValueError, naming the first, if a download that is used is not listed."""
        for name in used:
            if name is not None and name not in self.downloads:
                raise ValueError(f"names the download {name!r}, which downloads does not list")

    @model_validator(mode="after")
    def _downloads_listed(self) -> Settings:
        self.check_downloads([self.model.download, *(each.download for each in self.embedders.values())])
        return self


class Experiment(Settings):
    """Everything that is computed under a profile: settings, data, training, and the grid of runs."""

    unset = ("stated", *Settings.unset)
    # Python files with methods of yours (see `rdslib.methods`), relative to the profile's folder.
    plugins: tuple[str, ...] = ()
    pool: Pool
    tasks: tuple[Task, ...] = Field(min_length=1)
    train: Train
    # Whether fine-tuned models are kept once they are evaluated: a study has many, and needs their scores.
    keep_models: bool = False
    evaluate: Evaluate
    grid: Grid
    stated: Stated | None = None

    @field_validator("encode")
    @classmethod
    def _tulus_template(cls, value: Encode) -> Encode:
        if value.template != "tulu":
            raise ValueError(
                f"has template: {value.template}, but a study trains and evaluates in Tulu's format; leave "
                f"it out, or use `rds select --template {value.template}`"
            )
        return value

    @model_validator(mode="after")
    def _names_known(self) -> Experiment:
        self.check_downloads(source.download for source in self.pool.sources)
        self.check_downloads(name for task in self.tasks for name in task.downloads)
        whole = sum(source.samples for source in self.pool.sources)
        for subset, size in self.pool.subsets.items():
            if size > whole:
                raise ValueError(f"draws the pool {subset!r} of {size} samples from {whole}; lower its size")
        pools = ["all", *self.pool.subsets]
        named = [*self.grid.single_task, self.grid.ablation_pool, *([self.ifd.pool] if self.ifd else [])]
        for name in (*named, self.grid.second_pool):
            if name is not None and name not in pools:
                raise ValueError(f"names the pool {name!r}; there are {', '.join(pools)}")
        return self


class Profile(Strict):
    """One file under `params/`."""

    name: str
    title: str
    # Where shards of features and scores are computed: in this process, or on a Ray cluster.
    engine: Literal["local", "ray"] = "local"
    # Whether figures are drawn of the runs that there are, and `rds compute` alone adds to them.
    partial: bool = False
    experiment: Experiment | None


def read_pins(path: Path) -> dict[str, str]:
    """Read the checksums of a `sha256sum` listing, by the files' paths; raise ValueError for a mistake."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({reason_of(error)}); make it with sha256sum") from error
    pins: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = PIN.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}:{number}: is not `<sha256>  <path>`; make the file with sha256sum")
        if match[2] in pins:
            raise ValueError(f"{path}:{number}: lists {match[2]!r} again; remove one of the two lines")
        pins[match[2]] = match[1]
    if not pins:
        raise ValueError(f"{path} lists no files; make it with sha256sum")
    return pins
