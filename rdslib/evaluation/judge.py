"""AlpacaEval's win rate: a judge, any model behind an OpenAI-compatible address, compares two responses.

Through the `alpaca_eval` package, with version 1's prompt. A judge's answers are kept, response by response,
so that nothing is paid for twice.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdslib.errors import UserError, needs, reason_of
from rdslib.files import write_json

# The package's judge of version 1: its prompt, and how it reads the answer.
ANNOTATOR = "alpaca_eval_gpt4"
# After so many comparisons the judge's answers are written down.
PIECE = 20


def outputs(instructions: Sequence[str], responses: Sequence[str], model: str) -> list[dict[str, str]]:
    """Return responses in the form that the `alpaca_eval` package reads."""
    return [
        {"instruction": instruction, "output": response, "generator": model}
        for instruction, response in zip(instructions, responses, strict=True)
    ]


def win_rates(
    ours: Sequence[dict[str, str]], theirs: Sequence[dict[str, str]], judge: str, url: str | None, kept: Path
) -> np.ndarray:
    """Ask a judge which of two responses (from `outputs`) to each instruction it prefers.

    The judge is a model's name at an OpenAI-compatible address (None is OpenAI's), whose key is in
    OPENAI_API_KEY. `kept` is a JSON file of earlier answers, which is added to.

    Returns:
        Float [n]: 1 if it prefers ours, 0 if theirs, 0.5 for a draw, NaN where its answer could not be read.

    Raises:
        UserError: The package is missing, or the judge cannot be asked or answered nothing at all.
    """
    # alpaca-eval imports pkg_resources.
    needs("judge", "alpaca_eval", "pkg_resources")
    import yaml
    from alpaca_eval.annotators import PairwiseAnnotator
    from alpaca_eval.constants import EVALUATORS_CONFIG_DIR

    logging.getLogger().setLevel(logging.WARNING)  # the package sets the root logger to INFO
    config: dict[str, Any] = yaml.safe_load((EVALUATORS_CONFIG_DIR / ANNOTATOR / "configs.yaml").read_text())
    client = {"api_key": os.environ.get("OPENAI_API_KEY", "none")} | ({"base_url": url} if url else {})
    before = json.loads(kept.read_text()) if kept.is_file() else []
    answers = {(row["instruction"], row["ours"], row["theirs"]): row["preference"] for row in before}
    pairs = [(a["instruction"], a["output"], b["output"]) for a, b in zip(ours, theirs, strict=True)]
    left = [at for at, pair in enumerate(pairs) if pair not in answers]
    with tempfile.TemporaryDirectory() as folder:
        clients, annotator = Path(folder, "clients.yaml"), Path(folder, "judge.yaml")
        clients.write_text(json.dumps({"default": [client]}))
        prompt = EVALUATORS_CONFIG_DIR / config[ANNOTATOR]["prompt_template"]
        config[ANNOTATOR]["prompt_template"] = str(prompt)
        config[ANNOTATOR]["completions_kwargs"] |= {"model_name": judge, "client_config_path": str(clients)}
        annotator.write_text(json.dumps({judge: config[ANNOTATOR]}))
        # The package keeps answers too, but cannot read them again with the pandas of today.
        asking = PairwiseAnnotator(annotators_config=str(annotator), caching_path=None)
        for start in range(0, len(left), PIECE):
            piece = left[start : start + PIECE]
            try:
                found = asking.annotate_head2head(
                    outputs_1=[theirs[at] for at in piece], outputs_2=[ours[at] for at in piece]
                )
            # Whatever the package and its client raise means that there is no answer.
            except Exception as error:
                raise UserError(
                    f"the judge {judge!r} could not be asked ({reason_of(error)}); check --judge-url, "
                    "--judge and OPENAI_API_KEY, and run the command again: earlier answers are kept"
                ) from error
            preferences = {row["instruction"]: row["preference"] for row in found}
            answers |= {pairs[at]: preferences.get(pairs[at][0]) for at in piece}
            kept.parent.mkdir(parents=True, exist_ok=True)
            names = ("instruction", "ours", "theirs")
            rows = [dict(zip(names, pair, strict=True)) | {"preference": answers[pair]} for pair in answers]
            write_json(kept, [row for row in rows if _score(row["preference"]) >= 0])
    scores = np.array([_score(answers[pair]) for pair in pairs])
    if np.isnan(scores).all():
        raise UserError(
            f"the judge {judge!r} gave no answer that could be read; check --judge-url, --judge and "
            "OPENAI_API_KEY"
        )
    return scores


def _score(preference: float | None) -> float:
    """The score of the package's preference: 1 is theirs, 2 ours, 1.5 a draw; else there is no answer."""
    return preference - 1 if preference is not None and 1 <= preference <= 2 else float("nan")
