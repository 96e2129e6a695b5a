"""What a user asks to be selected: options that are declared once, for the commands and for Python."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rdslib.commands.task_queries import of_tasks
from rdslib.data.inputs import in_full
from rdslib.errors import UserError
from rdslib.selection import SELECTORS
from rdslib.selection.round_robin import ROUND_ROBIN

F = TypeVar("F", bound=Callable[..., Any])
_NAMED = inspect.Parameter.KEYWORD_ONLY


class SelectRequest(BaseModel):
    """All that a selection depends on, but for what its files hold.

    `rds select`, `rds plan` and `rdslib.select` take these fields as their options.
    """

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, protected_namespaces=())

    pool: Annotated[
        str,
        typer.Option(
            help="What to choose from: a file of JSONL, JSON, Parquet or CSV, a folder, a hub name, or -."
        ),
    ]
    k: Annotated[str, typer.Option("-k", help="How many samples to choose, or which percent: 1000, 5%.")]
    queries: Annotated[
        str | None,
        typer.Option(
            help="Samples, or prompts alone, of what the model should do; or a task's, as in "
            "task:gsm8k,task:mmlu."
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="The language model: a folder, a hub name, a GGUF file, or a profile's name for its own; by "
            "default that of --profile."
        ),
    ] = None
    method: Annotated[
        str, typer.Option(help="How to choose: rds, random, embed_minilm, less, top_ppl, ...")
    ] = "rds"
    selector: Annotated[
        str, typer.Option(help=f"How queries pick by their scores: {', '.join(SELECTORS)}.")
    ] = ROUND_ROBIN.name
    max_similarity: Annotated[
        float | None,
        Field(ge=0, le=1),
        typer.Option(min=0, max=1, help="Pass over what has a larger cosine with an earlier pick."),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="The pool's form, if its fields do not tell: messages, sharegpt, alpaca, prompt_completion."
        ),
    ] = None
    as_: Annotated[
        Literal["own", "messages"],
        typer.Option("--as", help="Rows as they came, or with messages for what held the sample."),
    ] = "own"
    on_error: Annotated[
        Literal["stop", "quarantine"], typer.Option(help="At a bad row: stop, or leave it out and say so.")
    ] = "stop"
    dedup: Annotated[
        Literal["none", "exact", "near"], typer.Option(help="Which duplicates to leave out of the pool.")
    ] = "none"
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="A test set, whose words in samples (13 in a row) leave them out; repeatable."),
    ] = None
    balance_sources: Annotated[
        bool, typer.Option("--balance-sources", help="As many samples of each source as there can be.")
    ] = False
    max_per_source: Annotated[
        int | None, Field(ge=1), typer.Option(min=1, help="At most so many samples of a source.")
    ] = None
    profile: Annotated[
        str | None, typer.Option(help="A profile whose parameters and plugins to use; else the paper's.")
    ] = None
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default the first GPU, if there is one.")
    ] = None
    template: Annotated[
        Literal["tulu", "model"],
        typer.Option(help="What the model is shown: the paper's format, or its own chat template."),
    ] = "tulu"
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where features and scores are computed.")
    ] = "local"
    resume: Annotated[
        bool, typer.Option(help="Go on from what an earlier run of the same selection has left.")
    ] = True
    seed: Annotated[int, typer.Option(help="For what is random in a method.")] = 42

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SelectRequest:
        """Make a request of its options, with paths in full, so that it means the same from any folder.

        Raises:
            UserError: An option has a value that it cannot have.
            TypeError: There is no such option.
        """
        for name in options.keys() - cls.model_fields.keys():
            raise TypeError(f"got an unexpected keyword argument {name!r}")
        try:
            given = cls.model_validate({k: str(v) if isinstance(v, Path) else v for k, v in options.items()})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise UserError(f"{name}={first['input']!r}: {reason}") from error
        names = {name: getattr(given, name) for name in ("pool", "queries", "model", "profile")}
        paths = {
            name: in_full(value)
            for name, value in names.items()
            if value and not (name == "queries" and of_tasks(value))
        }
        return given.model_copy(update={**paths, "exclude": [in_full(each) for each in given.exclude or ()]})


def parameters(optional: Sequence[str] = (), without: Sequence[str] = ()) -> list[inspect.Parameter]:
    """The fields of a request as parameters of a function, with the annotations that typer reads.

    Args:
        optional: Those that are required of a request, but not of the function.
        without: Those that the function does not take.
    """
    hints = get_type_hints(SelectRequest, include_extras=True)
    found = []
    for name, field in SelectRequest.model_fields.items():
        default = None if name in optional else inspect.Parameter.empty
        default = default if field.is_required() else field.default
        found.append(inspect.Parameter(name, _NAMED, default=default, annotation=hints[name]))
    return [each for each in found if each.name not in without]


def with_options(
    optional: Sequence[str] = (), without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a request (see `parameters`): it gets a mapping of them first."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        options = parameters(optional, without)
        _, *others = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def command(**values: Any) -> None:
            function({each.name: values.pop(each.name) for each in options}, **values)

        every = [*options, *(each.replace(kind=_NAMED) for each in others)]
        # Those that are required stand first in the help.
        every.sort(key=lambda each: each.default is not inspect.Parameter.empty)
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in every}
        return command

    return decorate


def with_keywords(function: F) -> F:
    """Show the fields of a request, in place of `**options`, in the signature of a Python function."""
    signature = inspect.signature(function)
    *named, _ = signature.parameters.values()
    options = parameters(without=[each.name for each in named])
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*named, *(each.replace(annotation=each.annotation.__origin__) for each in options)]
    )
    return function


def use_device(name: str | None) -> None:
    """Use a device from now on, if one is named; raises UserError if it is not here."""
    if name is not None:
        from rdslib.models.device import choose

        choose(name)
