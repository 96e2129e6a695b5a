"""Where a model lies, a folder or a name on the Hugging Face hub, and what is in it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rdslib.data.download import TIMEOUT, home, hub_refusal
from rdslib.errors import UserError
from rdslib.files import sha256_of, write_json, write_whole

# What a name on the hub looks like: one that has more parts, or begins like a path, is that of a folder.
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
# Files that a model is made of: parameters, tokenizer, chat template and code; and weights. Layers that an
# embedding model has after the transformer, in folders apart, may be in PyTorch's form.
SMALL = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
WEIGHTS = ("*.safetensors", "[0-9]_*/*.bin")
# Of what else may lie in the folder of a trainer or of another engine.
OTHERS = ("checkpoint-", "original", "onnx", "openvino", "runs", ".")
# Names the folder or hub name of a model that is used where it lies.
POINTER = "pointer.json"
LFS = b"version https://git-lfs"


def folder_of(name: str | Path, weights: bool = True, revision: str | None = None) -> Path:
    """Return the folder (or the GGUF file) of a model, fetched from the hub where it is not here.

    Without `weights` only the small files of a hub's model are fetched.

    Raises:
        UserError: There is no such folder, the hub has no such model or does not give it, or it is out of
            reach and the model was not fetched before.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    name = str(name)
    if not HUB_NAME.fullmatch(name):
        raise UserError(f"model {name}: there is no such folder; give that of a saved model, or a hub name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    commit, problem = (revision, None) if revision else _commit(name)
    if problem is not None and commit is None:
        raise problem
    # What was fetched before may lack the weights, and one commit's files never change.
    for offline in [True] if problem else [True, False] if revision else [False]:
        try:
            return Path(
                snapshot_download(
                    name,
                    revision=commit,
                    allow_patterns=[*(f"*{suffix}" for suffix in SMALL), *(WEIGHTS if weights else ())],
                    ignore_patterns=[f"{other}*/*" for other in OTHERS],
                    etag_timeout=TIMEOUT,
                    local_files_only=offline,
                )
            )
        except Exception as error:  # of the hub's client, the network or the disk
            last = error
    raise _refusal(name, last) from last


def point_to(name: str, artifact: Path) -> None:
    """Let an artifact's folder stand for a model that is used where it lies, fetched first if need be."""
    folder = folder_of(name)
    commit = {} if Path(name).expanduser().exists() else {"commit": folder.name}
    write_json(artifact / POINTER, {"path": name, **commit})


def pointed(artifact: Path) -> Path:
    """Return the folder of the model that an artifact is, or points to."""
    if not (artifact / POINTER).is_file():
        return artifact
    there = json.loads((artifact / POINTER).read_text())
    return folder_of(there["path"], revision=there.get("commit"))


def commit_of(name: str) -> str | None:
    """Return the commit that a hub name stands for: the hub's, or, out of reach, what was fetched before."""
    return _commit(name)[0]


@functools.cache
def _commit(name: str) -> tuple[str | None, UserError | None]:
    """The commit of a hub name, and why the hub did not give it."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        return HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(name, timeout=TIMEOUT).sha, None
    except Exception as error:  # of the hub's client or the network
        problem = _refusal(name, error)
    cached = try_to_load_from_cache(name, "config.json")
    return (Path(cached).parent.name if isinstance(cached, str) else None), problem


def _refusal(name: str, error: Exception) -> UserError:
    why = hub_refusal(error, name, "model", "give the folder of a saved model")
    return UserError(f"model {name}: is no folder here, and {why}")


def contents_of(name: str | None) -> list[list[str]]:
    """Return what the files of a model hold, as [name, SHA-256], or the commit of one on the hub.

    Nothing for no model, or for one that is not there.
    """
    path = Path(name or "").expanduser()
    if name is None or not path.exists():
        commit = commit_of(name) if name and HUB_NAME.fullmatch(name) else None
        return [["commit", commit]] if commit else []
    if path.is_file():
        return [[path.name, _checksum(path)]]
    return [[str(file.relative_to(path)), _checksum(file)] for file in files_of(path)]


def files_of(folder: Path) -> list[Path]:
    """List the files that a model is made of, in order of name."""
    found = []
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        is_part = file.suffix in SMALL or any(fnmatch(str(name), pattern) for pattern in WEIGHTS)
        if is_part and not any(part.startswith(OTHERS) for part in name.parts) and file.is_file():
            found.append(file)
    return sorted(found)


def check_files(folder: Path) -> None:
    """Raise UserError for a file that stands for another one, which was not fetched."""
    for file in files_of(folder):
        if file.stat().st_size < 1024 and file.read_bytes().startswith(LFS):
            raise UserError(f"model {folder}: {file.name} is a Git LFS pointer; run `git lfs pull` there")


def _checksum(file: Path) -> str:
    """The file's SHA-256, which is kept for as long as nothing has been written to the file.

    Kept where there is a place to keep it: a plan leaves nothing in a home that is not there.
    """
    at: Any = file.stat()
    known = (file.resolve(), at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
    kept = home() / "checksums" / hashlib.sha256(repr(known).encode()).hexdigest()
    if not kept.is_file():
        digest = sha256_of(file)
        if home().is_dir():
            with contextlib.suppress(OSError):  # a home that can only be read, or is full
                kept.parent.mkdir(exist_ok=True)
                write_whole(kept, digest.encode())
        return digest
    return kept.read_text()
