"""Score blocks as selection takes them: checked, so that a method's mistake is an error and never a rank."""

from __future__ import annotations

from collections.abc import Iterator

from rdslib.errors import UserError
from rdslib.methods.base import Scorer, ScoringInputs
from rdslib.selection.topk import Block


def blocks_of(scorer: Scorer, inputs: ScoringInputs) -> Iterator[Block]:
    """Yield a method's score blocks, [queries, samples] each with the position of its first sample.

    Raises:
        UserError: A block has another number of rows than the task has queries, or the blocks of a whole pool
            do not cover it once.
    """
    queries, name = _rows(scorer, inputs), f"method {scorer.name}"
    covered = []
    for start, block in scorer.blocks(inputs):
        if block.ndim != 2:
            raise UserError(
                f"{name}: the block at {start} has shape {block.shape}; make it [queries, samples]"
            )
        rows, samples = block.shape
        if queries is not None and rows != queries:
            raise UserError(
                f"{name}: the block at {start} has {rows} rows of {samples} samples, and the task has "
                f"{queries} queries; give each query a row"
            )
        covered.append((start, start + samples))
        yield start, block
    if inputs.part == (0, 1) and inputs.sources:
        at = 0
        for start, end in sorted(covered):
            if start != at:
                break
            at = end
        if at != len(inputs.sources) or sum(end - start for start, end in covered) != at:
            raise UserError(
                f"{name}: its blocks do not cover each of the {len(inputs.sources)} samples once (see "
                f"position {at}); give each a score, and minus infinity to one that is never to be offered"
            )


def _rows(scorer: Scorer, inputs: ScoringInputs) -> int | None:
    """How many rows a block has to have; None where that does not follow from the queries."""
    if not scorer.needs_queries or scorer.joins_queries or not inputs.query_folders:
        return None
    return len(inputs.queries(next(iter(inputs.query_folders))))
