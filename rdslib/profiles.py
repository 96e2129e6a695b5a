"""Profiles, by name or path: a mistake is one line that names the key and what it may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rdslib.errors import UserError, did_you_mean
from rdslib.params import ROOT, Download, Model, Profile


def profile_path(name_or_path: str) -> Path:
    """Return the file of a profile, by its name or by the path of a YAML file; UserError for no such name."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = {each.stem: each for each in sorted((ROOT / "params").glob("*.yaml"))}
    if name_or_path not in known:
        hint = did_you_mean(name_or_path, known)
        raise UserError(f"unknown profile {name_or_path!r}{hint} Profiles: {', '.join(known)}")
    return known[name_or_path]


def find_model(name: str) -> tuple[Model, dict[str, Download]]:
    """Find the model, with its download, of a path, or else a profile's, or else a hub name.

    Raises:
        UserError: The profile has a mistake.
    """
    is_file = name.endswith((".yaml", ".yml"))
    if is_file or ((ROOT / "params" / f"{name}.yaml").is_file() and not Path(name).exists()):
        given = load_profile(name).experiment
        if given is not None:
            used = given.model.download
            return given.model, {used: given.downloads[used]} if used is not None else {}
    return Model(title=name, path=name), {}


def load_profile(name_or_path: str) -> Profile:
    """Read and check a profile, by its name or by the path of a YAML file; raise UserError for a mistake."""
    path = profile_path(name_or_path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        # YAML has no tuples: validate as JSON, where a list stands for one, and a date for its text.
        text = json.dumps(raw, default=str)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    # The last three are of dates as keys, of lists that hold themselves, and of thousands of brackets.
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not valid YAML ({reason}); correct it") from error
    try:
        return Profile.model_validate_json(text, context={"folder": path.parent})
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML, but a key that comes twice is a mistake, where YAML's reader would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise yaml.MarkedYAMLError(f"the key {key!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _explain(error: ValidationError) -> str:
    """The first mistake as `key: what is wrong; what it may be`, and how many more there are."""
    # A key that is not known comes first: it may be the one that is missing, mistyped.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _keys_at(first["loc"][:-1])
        message = f"is not a known key{did_you_mean(str(first['loc'][-1]), known)}"
        message += f" Keys here: {', '.join(known)}" if known else ""
    elif first["type"] == "missing":
        message = "is missing; add it"
    elif first["type"] != "value_error":
        message = f"got {first['input']!r}; {message[0].lower()}{message[1:]}"
    more = len(error.errors()) - 1
    return f"{key}: {message}" + (f" (and {more} more)" if more else "")


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """The keys that a profile may have at a place, walking the model's types."""
    model: Any = Profile
    for part in location:
        if isinstance(part, str):
            fields = getattr(model, "model_fields", {})
            model = _model_in(fields[part].annotation) if part in fields else None
    return sorted(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `tuple[Source, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)
