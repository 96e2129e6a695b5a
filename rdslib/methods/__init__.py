"""Methods: each is a scorer, which turns features of the pool into score blocks (see `base`).

`SCORERS` and `EXTRACTORS` hold what there is, by name; `load_plugins` adds those of a user's files.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from traceback import extract_tb

from rdslib.errors import UserError, unknown
from rdslib.files import sha256_of
from rdslib.methods.base import (
    COST,
    Extract,
    Extracted,
    Extraction,
    Extractor,
    InnerProduct,
    ModelUse,
    Preparation,
    Scorer,
    ScoringInputs,
)
from rdslib.methods.dsir import DSIR, NGRAMS
from rdslib.methods.embed import EMBED_GTR, EMBED_MINILM, EMBED_NV, GTR, MINILM, NV
from rdslib.methods.features import split_feature
from rdslib.methods.ifd import IFD, PreExperienced
from rdslib.methods.layers import RDS_LAYERS
from rdslib.methods.less import LESS, LessGradients
from rdslib.methods.lm import LanguageModel
from rdslib.methods.loss_drop import LOSS_DROP, TrainedOnQueries
from rdslib.methods.perplexity import MID_PPL, TOP_PPL
from rdslib.methods.random import BalancedRandom, Random
from rdslib.methods.rds import ABLATIONS, RDS
from rdslib.methods.span import LABEL, PROMPT
from rdslib.methods.whitened import RDS_WHITENED
from rdslib.selection import get_selector
from rdslib.selection.round_robin import ROUND_ROBIN

__all__ = [
    "COST", "EXTRACTORS", "SCORERS", "Extract", "Extracted", "Extraction", "Extractor", "InnerProduct",
    "ModelUse", "Preparation", "Scorer", "ScoringInputs", "check_selector", "digest_of", "fits",
    "get_extractor", "get_scorer", "load_plugins", "register",
]  # fmt: skip

# Figures and tables show methods in the order of this registry.
SCORERS: dict[str, Scorer] = {}
EXTRACTORS: dict[str, Extractor] = {}
# Of a method from a plugin: the checksum of its file, so that a change of it is another method.
_DIGESTS: dict[str, str] = {}
_LOADED: dict[Path, str] = {}


def register(method: Scorer | Extractor) -> None:
    """Let a method, or an extractor of features, be used by its name.

    Raises:
        UserError: The name is taken, or the colour is none.
    """
    what = type(method).__name__
    if method.name in (SCORERS if isinstance(method, Scorer) else EXTRACTORS):
        raise UserError(f"{what}: there is a {method.name!r} already; choose another name")
    if isinstance(method, Scorer):
        if method.colour is not None and not re.fullmatch("#[0-9A-Fa-f]{6}", method.colour):
            raise UserError(f"{what}: its colour is {method.colour!r}; write it as #RRGGBB")
        if isinstance(method.features, str):
            raise UserError(f"{what}: its features are a text; make them a tuple, ({method.features!r},)")
        method.title = method.title or method.name
        SCORERS[method.name] = method
    else:
        EXTRACTORS[method.name] = method


for _each in (
    Random(), BalancedRandom(), LESS, EMBED_NV, EMBED_GTR, EMBED_MINILM, TOP_PPL, MID_PPL, IFD, DSIR,
    LOSS_DROP, RDS, RDS_WHITENED, RDS_LAYERS, *ABLATIONS, LanguageModel(), PROMPT, LABEL, PreExperienced(),
    LessGradients(), GTR, NV, MINILM, NGRAMS, TrainedOnQueries(),
):  # fmt: skip
    register(_each)


def get_scorer(name: str) -> Scorer:
    """Return the method that goes by a name; raises UserError with the names there are."""
    if name not in SCORERS:
        raise unknown("method", name, sorted(SCORERS))
    return SCORERS[name]


def get_extractor(feature: str) -> Extractor:
    """Return the extractor that makes a feature such as `lm.nll`; raises UserError if there is none."""
    name, _ = split_feature(feature)
    if name not in EXTRACTORS:
        raise UserError(f"unknown extractor of {feature!r}; extractors: {', '.join(sorted(EXTRACTORS))}")
    return EXTRACTORS[name]


def fits(method: str, selector: str) -> bool:
    """Whether a selector can pick by a method's scores: round-robin can by any."""
    return not _unfit(method, selector, None)


def check_selector(method: str, selector: str, max_similarity: float | None) -> None:
    """Raise UserError if a selector, or a limit on similarity, is not for a method, or there is none such."""
    if why := _unfit(method, selector, max_similarity):
        raise UserError(why)


def _unfit(method: str, selector: str, max_similarity: float | None) -> str:
    """Say why a selector, or a limit on similarity, is not for a method; nothing if it is."""
    scorer, chosen = get_scorer(method), get_selector(selector)
    if chosen != ROUND_ROBIN and not scorer.needs_queries:
        return f"selector {selector}: is for methods with queries, and {method} looks at none; leave it out"
    if scorer.vector is None and (chosen.vectors or max_similarity is not None):
        what = "--max-similarity" if max_similarity is not None else f"selector {selector}"
        return (
            f"{what}: is of vectors, and {method} compares none; leave it out, or take a method that does, "
            "such as rds"
        )
    return ""


def load_plugins(paths: Sequence[Path]) -> None:
    """Run Python files that register methods, each once; raises UserError if one cannot be run."""
    for path in paths:
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); see plugins in the profile"
            ) from error
        if _LOADED.get(path, digest) != digest:
            raise UserError(f"{path}: has changed since it was loaded; start again")
        if path in _LOADED:
            continue
        before = SCORERS.keys() | EXTRACTORS.keys()
        try:
            runpy.run_path(str(path), run_name=f"rdslib_plugin_{digest[:16]}")
        except Exception as error:
            raise UserError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
        _LOADED[path] = digest
        for name in (SCORERS.keys() | EXTRACTORS.keys()) - before:
            _DIGESTS[name] = digest


def plugin_line(error: BaseException) -> str | None:
    """Return the file and line of a plugin where an error arose, or that led to it; None if none did."""
    files = set(map(str, _LOADED))
    lines = [
        f"{each.filename}:{each.lineno}" for each in extract_tb(error.__traceback__) if each.filename in files
    ]
    return lines[-1] if lines else None


def digest_of(name: str) -> str | None:
    """Return the checksum of the file that a method was loaded from; None for the library's."""
    return _DIGESTS.get(name)
