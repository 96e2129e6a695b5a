"""A user's selection: the request, the data that it names, and the pipeline over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdslib.commands.request import SelectRequest
from rdslib.commands.task_queries import TaskQueries, of_tasks
from rdslib.commands.user_data import UserData, left_out, query_step, read_queries, user_pool
from rdslib.data.download import home
from rdslib.data.reader import Row
from rdslib.data.streams import is_stream
from rdslib.errors import UserError, needs
from rdslib.methods import check_selector, get_extractor, get_scorer, load_plugins
from rdslib.methods.features import split_feature
from rdslib.params import NO_MODEL, Encode, Ifd, Less, LossDrop, Model, Settings, Train
from rdslib.pipeline.store import Store
from rdslib.profiles import find_model, load_profile, profile_path
from rdslib.selection import get_selector
from rdslib.selection.quota import per_source

if TYPE_CHECKING:
    from rdslib.data.reader import Table
    from rdslib.pipeline.pipeline import Request

# The paper's parameters (sections 2 and 5), where no profile gives others.
# What is stopped goes on after its last whole shard: on a processor these take a minute or so.
ENCODE = Encode(max_length=2048, shard_size=256)
FULL = Train(
    method="full",
    epochs=1,
    learning_rate=2e-5,
    warmup_ratio=0.03,
    batch_size=128,
    micro_batch_size=1,
    max_length=2048,
)
LORA = FULL.model_copy(
    update={
        "method": "lora",
        "epochs": 4,
        "lora_rank": 128,
        "lora_alpha": 512,
        "lora_dropout": 0.1,
        "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    }
)
# Brief, and of little capacity; ours. At 1e-4 a few queries moved NLL by 0.2%, no more than bfloat16 does.
BRIEF = FULL.model_copy(
    update={"method": "lora", "epochs": 4, "learning_rate": 1e-3, "batch_size": 8, "lora_rank": 8}
)


class UserSelection:
    """A request, the user's data, and the pipeline over them. Queries are read at once, the pool is not.

    Args:
        request: What is asked.
        tables: What is in memory: `pool`, `queries`, `exclude_0` and so on.

    Raises:
        UserError: A file is not there, a query is bad, or the method is unknown or needs queries.
    """

    def __init__(self, request: SelectRequest, tables: Mapping[str, Table] | None = None) -> None:
        self.request = request
        settings, plugins = _settings(request)
        scorer = get_scorer(request.method)
        if scorer.needs_queries and request.queries is None:
            raise UserError(
                f"--method {request.method}: needs --queries, samples of what the model should do"
            )
        makers = [get_extractor(each) for each in scorer.features]
        # Before the pool is read.
        for packages in [each.packages for each in makers if each.packages]:
            needs(*packages)
        if any(each.uses_model for each in makers):
            _check_model(settings.model, request.method)

        tasks = "queries" not in (tables or ()) and of_tasks(request.queries)
        names = {"pool": request.pool, "queries": None if tasks else request.queries}
        names |= {f"exclude_{i}": name for i, name in enumerate(request.exclude or ())}
        self.streams = [
            name for part, name in names.items() if name and part not in (tables or ()) and is_stream(name)
        ]
        if len(set(self.streams)) < len(self.streams):
            raise UserError(
                f"{self.streams[0]}: is a stream, which is read once; give it to one option alone"
            )

        check_selector(request.method, request.selector, request.max_similarity)
        if request.template == "model" and any(split_feature(each)[0] != "lm" for each in scorer.features):
            raise UserError(
                f"--template model: --method {request.method} does not use it; leave it out, or take rds or "
                "a method of perplexity"
            )

        def data(part: str, name: str) -> UserData:
            return UserData(part, tables[part]) if tables and part in tables else UserData(name)

        self.pool = data("pool", request.pool)
        self.tests = [data(f"exclude_{i}", name) for i, name in enumerate(request.exclude or ())]
        for each in self.tests:
            if splits := each.other_splits:
                raise UserError(
                    f"--exclude {each.name}: has several splits; say which, as in {each.name}:{splits[0]}"
                )
        self.queries: dict[str, list[Row]] = {}
        read = [self.pool, *self.tests]
        notes: list[str] = []
        if request.queries is not None and tasks:
            asked = TaskQueries(request.queries, request.profile)
            self.queries, notes = read_queries(asked.rows(), request.method), asked.notes
        elif request.queries is not None:
            read.append(data("queries", request.queries))
            self.queries = read_queries(read[-1].rows(queries=True), request.method)
        # The files that are read, and the model, which may be a name.
        self.inputs = [path for each in read for path in each.files] + plugins
        if settings.model.path:
            self.inputs.append(Path(settings.model.path))
        if request.profile is not None:
            self.inputs.append(profile_path(request.profile))
        from rdslib.pipeline.pipeline import Pipeline, executor  # loads torch

        self.pipeline = Pipeline(
            settings,
            user_pool.step(
                label="the pool",
                given={"pool": self.pool, "tests": self.tests},
                contents=self.pool.contents,
                excluded=[each.contents for each in self.tests],
                form=request.format,
                on_error=request.on_error,
                dedup=request.dedup,
            ),
            {task: query_step(task, [row.sample for row in rows]) for task, rows in self.queries.items()},
            Store(home() / "artifacts"),
            executor(request.engine, plugins),
        )
        for note in [*notes, *(note for each in read for note in each.notes)]:
            self.store.progress.note(note)

    @property
    def store(self) -> Store:
        """Where artifacts are."""
        return self.pipeline.store

    @property
    def limits(self) -> dict[str, Any]:
        """How much of a source may be selected, if that is limited (`rdslib.selection.quota.per_source`)."""
        limits = {"most": self.request.max_per_source, "balance": self.request.balance_sources}
        return {name: value for name, value in limits.items() if value}

    @property
    def turns(self) -> tuple[str, int]:
        """What takes turns in picking, and how many of it there are: 0 where nothing does."""
        scorer = get_scorer(self.request.method)
        if scorer.needs_queries and len(self.queries) > 1:
            return "tasks", len(self.queries)
        one = scorer.joins_queries or get_selector(self.request.selector).one_list(1)
        if not scorer.needs_queries or one:
            return "queries", 0
        return "queries", sum(map(len, self.queries.values()))

    def asked(self, counts: Mapping[str, int], sources: Sequence[str]) -> Request:
        """What is asked of a pool of these `counts` and sources (which matter where they are limited).

        Raises:
            UserError: The pool cannot give it.
        """
        from rdslib.pipeline.pipeline import Request

        request, kept = self.request, counts["kept"]
        k = _count_of(request.k, kept)
        if not 1 <= k <= kept:
            of = f"samples in {self.pool.name}"
            if out := left_out(counts):
                of = f"samples left of the {counts['read']:,} rows of {self.pool.name}{out}"
            raise UserError(f"-k {request.k}: must be from 1 to {kept}, the number of {of}")
        try:
            if self.limits:
                per_source(sources, k, **self.limits)
        except ValueError as error:
            raise UserError(f"-k {request.k}: {error}; ask for fewer, or allow more of a source") from error
        targets = tuple(self.queries) if get_scorer(request.method).needs_queries else ()
        return Request(
            request.method,
            k,
            targets,
            seed=request.seed,
            limits=self.limits,
            selector=request.selector,
            max_similarity=request.max_similarity,
        )


def code_of(profile: str) -> list[str]:
    """What of a profile runs code of others: its plug-ins, and encoders whose code it trusts."""
    given = load_profile(profile).experiment
    if given is None:
        return []
    return [*given.plugins, *(name for name, each in given.embedders.items() if each.trust_remote_code)]


def _settings(request: SelectRequest) -> tuple[Settings, list[Path]]:
    """The parameters of methods, and the plugins: those of the profile, or the paper's and none."""
    model, downloads = find_model(request.model) if request.model is not None else (NO_MODEL, {})
    template = {"template": request.template}
    if request.profile is None:
        # Embedding models that packages have are the default profile's.
        mini = load_profile("mini").experiment
        assert mini is not None
        used = {each.download for each in mini.embedders.values()}
        downloads |= {name: each for name, each in mini.downloads.items() if name in used}
        return Settings(
            seed=request.seed, model=model, encode=ENCODE.model_copy(update=template),
            ifd=Ifd(train=FULL), less=Less(train=LORA), loss_drop=LossDrop(train=BRIEF),
            embedders=mini.embedders, downloads=downloads,
        ), []  # fmt: skip
    given = load_profile(request.profile).experiment
    if given is None:
        raise UserError(f"profile {request.profile}: has no experiment to take parameters from; give another")
    folder = profile_path(request.profile).resolve().parent
    plugins = [folder / each for each in given.plugins]
    load_plugins(plugins)
    fields = {name: getattr(given, name) for name in Settings.model_fields}
    # The whole of the user's pool is what there is to prepare on.
    ifd = given.ifd and given.ifd.model_copy(update={"pool": "all"})
    changes: dict[str, Any] = {
        "seed": request.seed,
        "ifd": ifd,
        "downloads": {**given.downloads, **downloads},
        "encode": given.encode.model_copy(update=template),
    }
    changes["model"] = given.model if request.model is None else model
    return Settings(**{**fields, **changes}), plugins


def _check_model(model: Model, method: str) -> None:
    """Raise UserError, before anything is made, unless there is a model, here or on the hub."""
    from rdslib.models.folder import folder_of

    if model == NO_MODEL:
        raise UserError(
            f"--method {method}: needs --model: a folder, a hub name, a GGUF file, or the name of a profile, "
            "such as mini, for its model"
        )
    if model.path is not None:
        folder_of(model.path, weights=False)


def _count_of(asked: str, kept: int) -> int:
    """How many samples "1000" or "5%" are; a percent is rounded down, but to 1 at least."""
    try:
        if not asked.endswith("%"):
            return int(asked)
        percent = float(asked[:-1])
        if 0 < percent <= 100:
            return max(1, int(kept * percent / 100))
    except ValueError:
        pass
    raise UserError(f"-k {asked}: is neither a count nor a percent; give one such as 1000 or 5%")
