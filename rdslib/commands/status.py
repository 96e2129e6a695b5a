"""`rds status` and `rds clean`: what of a profile's study is there, what is not, and what nobody needs."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import filelock
import typer
from rich.filesize import decimal

from rdslib.commands.run import ProfileOption, processes, whole_study
from rdslib.commands.speed import passes
from rdslib.commands.text import line, show, table
from rdslib.data.download import cache_dir, home
from rdslib.errors import plain
from rdslib.params import ROOT
from rdslib.pipeline.artifacts import size_of
from rdslib.pipeline.step import Step, in_order

if TYPE_CHECKING:
    from rdslib.pipeline.study import Study


def status_command(
    profile: ProfileOption = "mini",
    every: Annotated[bool, typer.Option("--all", help="List every step as well.")] = False,
) -> None:
    """Show what a profile's study is made of: what is there, what is still to be computed, and how long."""
    from rdslib import figures
    from rdslib.figures import publish

    study = whole_study(profile)
    # By hash: a step that several figures rest on is one step, and is looked for once.
    of_figures = {
        name: {step.hash: step for step in in_order(figures.steps(study, name))} for name in figures.FIGURES
    }
    steps = {key: step for found in of_figures.values() for key, step in found.items()}
    there = {key for key, step in steps.items() if study.store.has(step)}
    if every:
        for key, step in steps.items():
            state = "exists " if key in there else "missing"
            typer.echo(f"{state}  {key}  {step.name:<8}  {plain(step.label)}")
    rows = []
    for name, found in of_figures.items():
        drawn = (publish.folder_of(study.profile.name) / f"{name}.json").is_file()
        state = figures.why_absent(study, name) or ("drawn" if drawn else "not drawn")
        left = len(found.keys() - there)
        rows.append((name, f"{left} of {len(found)}", state))
    rows.append(("together", f"{len(steps) - len(there)} of {len(steps)}", ""))
    heads = ("", "to run", "figure")
    show([table(dict(zip(heads, zip(*rows, strict=True), strict=True)), cut=["figure"])])
    here = [step for key, step in steps.items() if key in there]
    todo = [step for key, step in steps.items() if key not in there]
    show([line(each) for each in _sums(study, profile, here, todo)])
    typer.echo(home())


def _sums(study: Study, profile: str, here: Sequence[Step], todo: Sequence[Step]) -> list[str]:
    """What is to be run, how long that takes, and what is on the disk."""
    found = []
    if todo:
        kinds = Counter(step.name for step in todo)
        seconds = seconds_left(study, here, todo)
        time = f"not known before one of each kind is there; see rds plan --profile {profile}"
        if seconds is not None:
            time = f"about {timedelta(seconds=round(seconds))}, by those of each kind that are there"
        found.append(f"To run: {', '.join(f'{count:,} {name}' for name, count in kinds.items())}.")
        found.append(f"Time: {time}.")
    manifests = [study.store.manifest(step) for step in here]
    size = sum(map(size_of, manifests))
    return [
        *found,
        f"On disk: {decimal(size)} of this profile's artifacts; {decimal(_size(home()))} in all, in",
    ]


def seconds_left(study: Study, here: Sequence[Step], todo: Sequence[Step]) -> float | None:
    """How long missing steps take, by what those of their names took that are here; None if none is."""
    seconds: dict[str, float] = defaultdict(float)
    weight: dict[str, float] = defaultdict(float)
    for group in passes(here):
        # Steps of one pass have its time each.
        seconds[group[0].name] += max(study.store.manifest(step)["seconds"] for step in group)
        weight[group[0].name] += sum(step.weight for step in group)
    if any(not weight[step.name] for step in todo):
        return None
    whole = sum(step.weight * seconds[step.name] / weight[step.name] for step in todo)
    return whole / processes(study, len(todo))


def clean_command(
    profile: Annotated[
        list[str] | None,
        typer.Option(help="A profile of your own whose artifacts stay as well; may be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove artifacts and downloads that no profile needs, after saying how much that frees.

    The profiles are those that come with the library, and those that `--profile` names. What `rds select` has
    computed goes too, and what was made on another kind of device; it is computed again when it is needed.
    Exit code 1 if you say no.
    """
    from rdslib.pipeline.study import Study

    given = [each.stem for each in sorted((ROOT / "params").glob("*.yaml"))]
    studies = [Study.load(each) for each in [*given, *(profile or [])]]
    found = _unneeded(studies)
    if not found:
        typer.echo(f"nothing to remove in {home()}")
        return
    counts, sizes = Counter[str](), Counter[str]()
    for path, size in found.items():
        counts[path.parent.name] += 1
        sizes[path.parent.name] += size
    whole = decimal(sum(sizes.values()))
    show([table({"kind": counts, "": counts.values(), "size": map(decimal, sizes.values())})])
    typer.echo(f"{whole} in {home()}")
    if not yes:
        typer.confirm("Remove them?", abort=True)
    kept = [path for path in found if not _free(path)]
    typer.echo(f"removed, but for {len(kept)} that are in use" if kept else f"freed {whole}")


def _unneeded(studies: Sequence[Study]) -> dict[Path, int]:
    """The artifacts and downloads that no figure of some studies rests on, with their bytes."""
    from rdslib import figures

    wanted = {
        (step.name, step.hash)
        for study in (each.whole() for each in studies)
        for step in in_order(each for name in figures.FIGURES for each in figures.steps(study, name))
    }
    found = {
        path: _size(path)
        for path in sorted(studies[0].store.folder.glob("*/*"))
        if path.is_dir() and (path.parent.name, path.name.removesuffix(".part")) not in wanted
    }
    experiments = [study.experiment for study in studies if study.profile.experiment is not None]
    downloads = [each for experiment in experiments for each in experiment.downloads.values()]
    # A download is kept under the beginning of its checksum.
    pins = {pin[:16] for each in downloads for pin in [each.sha256, *(each.files or {}).values()] if pin}
    files = [path for path in sorted(cache_dir().glob("*")) if path.suffix != ".lock"]
    return found | {path: path.stat().st_size for path in files if path.name[:16] not in pins}


def _size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file())


def _free(path: Path) -> bool:
    """Remove an artifact or a download; False if another process is making or checking it."""
    try:
        with filelock.FileLock(f"{str(path).removesuffix('.part')}.lock", blocking=False):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except filelock.Timeout:
        return False
    return True
