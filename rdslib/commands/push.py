"""`rds push`: a selection as a folder ready for the Hugging Face hub, with a card, and its upload."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rdslib import __version__
from rdslib.commands.outputs import SUFFIXES, check_new, read_record
from rdslib.commands.request import SelectRequest
from rdslib.data.inputs import folder_split
from rdslib.data.reader import Row, read_rows
from rdslib.errors import UserError, plain, reason_of
from rdslib.selection import get_selector

CARD = "README.md"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Names of the request's fields that are files, of which the card has the last part alone.
_FILES = ("pool", "queries", "model", "profile", "exclude")
# Options that say how a selection is computed, and not what it is.
_HOW = ("resume", "engine", "device")


def push_command(
    selection: Annotated[Path, typer.Argument(help="The file that `rds select` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    to: Annotated[
        str | None, typer.Option(help="Upload it as this data set: USER/NAME. Nothing is uploaded without.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let anybody read a new data set.")] = False,
) -> None:
    """Write a selection as a folder for the Hugging Face hub, with a card, and upload it if you say so.

    The folder has the rows and README.md: what was selected, from what, how, what it cost, the pool's licence
    where that is known, and the command that makes it again. Of your own files it has the names alone.
    """
    typer.echo(f"{selection}: is in {push(selection, out, to, public)}")


def push(selection: Path, out: Path, to: str | None = None, public: bool = False) -> str:
    """Write the folder, and upload it to the data set `to`, if that is given; return where it is.

    Raises:
        UserError: The file is not what `rds select` wrote, `out` is there already, or, with `to`, nobody is
            logged in, or the hub does not take it. The folder stays then.
    """
    record = read_record(selection)
    check_new(out)
    api = _api(to) if to is not None else None
    suffix = next(each for each in SUFFIXES if selection.name.endswith(each))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        folder = Path(place) / "folder"
        folder.mkdir()
        shutil.copyfile(selection, folder / f"train{suffix}")
        (folder / CARD).write_text(card(selection, record, f"train{suffix}"), encoding="utf-8")
        shutil.move(folder, out)
    if api is None:
        return str(out)
    try:
        api.create_repo(to, repo_type="dataset", private=not public, exist_ok=True)
        found = api.upload_folder(repo_id=to, repo_type="dataset", folder_path=out)
    except Exception as error:  # of the hub's client or the network
        raise UserError(
            f"--to {to}: the hub does not take it ({reason_of(error)}); the folder is {out}: upload it by "
            "hand, or remove it and try again"
        ) from error
    return f"{out}, and on the hub: {found}"


def _api(to: str) -> Any:
    """The hub's client; raises UserError if `to` names no data set, or nobody is logged in."""
    from huggingface_hub import HfApi, get_token

    if not _REPOSITORY.fullmatch(to):
        raise UserError(f"--to {to}: is no name of a data set; give it as USER/NAME")
    if get_token() is None:
        raise UserError(f"--to {to}: nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN")
    return HfApi()


# --- the card


def card(selection: Path, record: Mapping[str, Any], data: str) -> str:
    """The card of a selection: YAML with `configs` for the hub's viewer and `datasets`, and a text."""
    from huggingface_hub import DatasetCardData

    request: SelectRequest = record["request"]
    counts = record["counts"]
    licence = licence_of(request.pool)
    about = DatasetCardData(
        license=licence,
        tags=["rdslib", "data-selection"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": data}]}],
    )
    sources: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for row in read_rows(selection, "messages" if request.as_ == "messages" else request.format):
        assert isinstance(row, Row)  # a bad one is an error
        sources[str(row.record["rds_source"])] += 1
        tasks[str(row.record.get("rds_task", ""))] += 1
    facts = {
        "method": request.method,
        "queries": _shown("queries", request.queries),
        "selector": get_selector(request.selector).about if request.queries else None,
        "model": _shown("model", request.model),
        "profile": _shown("profile", request.profile),
        "rows of the pool": f"{counts['read']:,}",
        "of these left out": ", ".join(
            f"{counts[kind]:,} {kind}" for kind in ("rejected", "contaminated", "duplicate") if counts[kind]
        ),
        "cost": f"{record['flops']:.3g} FLOPs" if record.get("flops") else None,
        "seed": request.seed,
        "made with": f"rdslib {record.get('version') or __version__}",
    }
    stated = f"the pool's: {licence}" if licence else "not known here; it is that of the pool's sources"
    parts = [
        f"---\n{about.to_yaml()}\n---",
        f"# {counts['selected']:,} samples of {_cell(_shown('pool', request.pool))}",
        "Chosen by `rds select` of rdslib, in the order of picking. "
        f"`rds_score`, `rds_rank` and `rds_source` say how. Licence: {stated}.",
        _table(
            ("what", "value"), [(name, value) for name, value in facts.items() if value not in (None, "")]
        ),
        _table(("source", "samples"), sources.most_common()),
        _table(("task", "samples"), tasks.most_common()) if len(tasks) > 1 else "",
        f"To make it again, where the files are:\n\n```bash\n{command(request, data)}\n```",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def command(request: SelectRequest, out: str) -> str:
    """The command that makes a selection, with its options as far as they are not as by default."""
    words = ["rds", "select"]
    for name, field in SelectRequest.model_fields.items():
        value = getattr(request, name)
        if name in _HOW or value in (field.default, []):
            continue
        option = "-k" if name == "k" else f"--{name.rstrip('_').replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            words += [option] if each is True else [option, _shown(name, str(each))]
    return shlex.join([*words, "--out", out])


def licence_of(pool: str) -> str | None:
    """The licence that a pool's own card names, in its folder or on the hub; None if that is not known."""
    from huggingface_hub import DatasetCard

    folder, _ = folder_split(pool)
    place = folder / CARD if folder.is_dir() else None
    if (folder.exists() and place is None) or (place is not None and not place.is_file()):
        return None
    try:
        found = DatasetCard.load(place or pool.partition(":")[0]).data.license
    except Exception:  # none, none that can be read, or the hub is out of reach
        return None
    return found if isinstance(found, str) else None


def _shown(name: str, value: str | None) -> str:
    """A value of the request for anybody to read: of a path its last part."""
    if value is None or name not in _FILES:
        return value or ""
    return Path(value).name if Path(value).is_absolute() else value


def _table(head: Sequence[str], rows: Sequence[tuple[Any, Any]]) -> str:
    lines = [f"| {_cell(left)} | {_cell(right)} |" for left, right in [head, *rows]]
    return "\n".join([lines[0], "| --- | --- |", *lines[1:]])


def _cell(value: Any) -> str:
    """A value as one cell of a table, where what comes from data is text and nothing else."""
    return re.sub(r"([|`*_\[\]\\])", r"\\\1", html.escape(plain(value), quote=False))
