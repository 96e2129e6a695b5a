"""Steps: what makes an artifact, and how it is named.

A *step* is a function with a version, and the arguments that it is called with. Its hash follows from these
alone, so a whole study can be laid out, looked up and counted before anything is computed.

    @step(version=1)
    def select(work: Work, scores: Path, k: int) -> Mapping[str, Any]: ...

    select.step("the best 10", scores=another_step, k=10)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from rdslib.files import canonical

# How often artifacts have been made or removed here: what was not settled before is looked at again.
_changes = 0


def artifacts_changed() -> None:
    """Let it be known that an artifact has been made or removed."""
    global _changes
    _changes += 1


@dataclass(frozen=True, eq=False)
class Step:
    """A function and the arguments that it makes one artifact from. Equal hashes are the same artifact.

    `arguments` are its key: plain values, pydantic models, and the steps (or files of steps) that it reads,
    also in mappings and lists. `marks` are part of the key too, and are not passed: what the function depends
    on by itself, such as the device. `given` is passed, and is not part of the key. `label` is what a person
    reads while the step runs; `weight` is its expected share of the time, in any unit that is common to the
    steps of one name. Steps whose arguments differ in `joined_by` alone are made in one call. The files of a
    `transient` step's artifact are removed once what reads them is made; its manifest stays. `record` is the
    file of the artifact that a study's records hold (`rdslib.pipeline.records`), a Parquet table.
    """

    name: str
    version: int
    function: Callable[..., Any] = field(repr=False)
    arguments: Mapping[str, Any]
    marks: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)
    label: str = ""
    weight: float = 1.0
    joined_by: str | None = None
    transient: bool = False
    record: str | None = None
    _known: dict[str, str] = field(default_factory=dict, repr=False)
    # The hash and what is unsettled, and when they were found.
    _last: list[tuple[str, list[Step], int]] = field(default_factory=list, repr=False)

    @property
    def key(self) -> dict[str, Any]:
        """What the hash is made of."""
        return {
            "step": self.name,
            "version": self.version,
            "arguments": _plain(self.arguments),
            "marks": dict(self.marks),
        }

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that stand for the key and, through the steps in it, for all before it.

        It may change for as long as a file that the step is keyed by has not been made.
        """
        return self._found[0]

    @property
    def group(self) -> str:
        """What steps that are made in one call have in common; the hash for those made alone."""
        if self.joined_by is None:
            return self.hash
        arguments = {name: value for name, value in self.arguments.items() if name != self.joined_by}
        return canonical({**self.key, "arguments": _plain(arguments)})

    @property
    def inputs(self) -> list[Step]:
        """The steps that this one reads."""
        return [each.step if isinstance(each, File) else each for each in _inputs(self.arguments)]

    @property
    def unsettled(self) -> list[Step]:
        """Steps at or before this one's inputs that are to be made before the hash is known."""
        return self._found[1]

    @property
    def _found(self) -> tuple[str, list[Step], int]:
        """As `_last`: of a study of hundreds of steps, each is asked for thousands of times."""
        if not self._last or (self._last[0][1] and self._last[0][2] != _changes):
            at, unsettled = _changes, []
            for each in _inputs(self.arguments):
                if isinstance(each, File):
                    unsettled += [] if each.checksum else [*each.step.unsettled, each.step]
                else:
                    unsettled += each.unsettled
            # The hash last: nothing is unsettled whose hash could change.
            self._last[:] = [(hash_of(self.key), list(dict.fromkeys(unsettled)), at)]
        return self._last[0]

    def known(self, name: str) -> str | None:
        """The checksum of a file of its artifact, if another step is keyed by it; None if it is not."""
        return self._known.get(name)


@dataclass(frozen=True, eq=False)
class File:
    """A file of a step's artifact: steps that read it are keyed by what it holds, not by how it was made.

    So they stay when the step is made in another way and the file comes out the same.
    """

    step: Step
    name: str
    look: Callable[[Step, str], str | None] = field(repr=False)

    @property
    def checksum(self) -> str | None:
        """The file's SHA-256; None before it is made."""
        known = self.step._known
        if self.name not in known and (found := self.look(self.step, self.name)) is not None:
            known[self.name] = found
        return known.get(self.name)


@dataclass(frozen=True)
class Kind:
    """A function that makes artifacts, with its version, to be raised when it makes others."""

    function: Callable[..., Any]
    version: int
    joined_by: str | None
    record: str | None = None

    def step(
        self,
        label: str,
        weight: float = 1.0,
        marks: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        transient: bool = False,
        **arguments: Any,
    ) -> Step:
        """Lay out a step that calls the function with these arguments (see `Step`)."""
        call = self.function.__name__, self.version, self.function
        passed = arguments, marks or {}, given or {}
        return Step(*call, *passed, label, weight, self.joined_by, transient, self.record)


def step(
    version: int, joined_by: str | None = None, record: str | None = None
) -> Callable[[Callable[..., Any]], Kind]:
    """Mark a function that makes an artifact.

    It gets a `Work` and its arguments by name, with the folders of artifacts in place of steps, writes files
    into `work.path`, and returns counts for the manifest. With `joined_by` it gets, in place of one `Work`
    and that argument, a mapping of the argument's values to their works, and returns a mapping of counts.
    """
    return lambda function: Kind(function, version, joined_by, record)


def in_order(steps: Iterable[Step]) -> list[Step]:
    """The steps and all they rest on, inputs first, each once."""
    ordered: dict[str, Step] = {}

    def add(step: Step) -> None:
        if step.hash not in ordered:
            for each in step.inputs:
                add(each)
            ordered[step.hash] = step

    for each in steps:
        add(each)
    return list(ordered.values())


def map_arguments(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with `change` made to all that is in its mappings and lists."""
    if isinstance(value, Mapping):
        return {name: map_arguments(each, change) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [map_arguments(each, change) for each in value]
    return change(value)


def _plain(arguments: Mapping[str, Any]) -> Any:
    """Arguments as JSON: artifacts by their hash, or by their file's checksum."""

    def plain(value: Any) -> Any:
        if isinstance(value, File):
            return {"file": value.name, "holds": value.checksum or value.step.hash}
        if isinstance(value, Step):
            return {"artifact": value.hash}
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else value

    return map_arguments(arguments, plain)


def _inputs(value: Any) -> list[Step | File]:
    """The steps, and files of steps, in arguments."""
    found: list[Step | File] = []
    map_arguments(value, lambda each: found.append(each) if isinstance(each, Step | File) else None)
    return found


def hash_of(key: Mapping[str, Any]) -> str:
    """The hash of a step's key, or of what a manifest says of it."""
    parts = {name: key.get(name) for name in ("step", "version", "arguments", "marks")}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]
