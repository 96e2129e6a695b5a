"""A selection of a user's own, to be looked at by hand in the notebook `explore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rdslib.commands.select import reopen
from rdslib.commands.user_selection import UserSelection
from rdslib.errors import UserError, needs
from rdslib.methods import SCORERS, get_scorer

if TYPE_CHECKING:
    from rdslib.figures.explore import Explorer


def explore(selection: Path | str, profile: str | None = None) -> Explorer:
    """Explore a selection that `rds select` has written, as the notebook `explore` does.

    Beside the selection's own method there are those that cost nothing, for comparisons: those that read no
    features, and those whose features of this pool and these queries have been made.

    Args:
        selection: The file.
        profile: As `reopen` takes it.

    Raises:
        UserError: As of `reopen`, or its method compares no vectors of queries and samples.
    """
    needs("study", "sklearn")
    from rdslib.figures.explore import Explorer
    from rdslib.pipeline.pipeline import ALL

    opened, asked = reopen(Path(selection), profile)
    scorer = get_scorer(asked.method)
    if not asked.targets or len(scorer.features) != 1 or scorer.joins_queries:
        raise UserError(
            f"{selection}: was selected by {asked.method}, which compares no vectors of queries and samples; "
            "explore a selection by a method that does, such as rds, and use `rds compare` for this one"
        )
    methods = [method for method in SCORERS if method == asked.method or _is_there(opened, method)]
    pools = {method: [ALL] for method in methods}
    return Explorer(
        opened.pipeline,
        pools,
        asked.method,
        asked.k,
        asked.seed,
        asked.limits,
        asked.selector,
        asked.max_similarity,
    )


def _is_there(opened: UserSelection, method: str) -> bool:
    """Whether all that a method reads has been made."""
    pipeline, scorer = opened.pipeline, get_scorer(method)
    tasks = opened.queries if scorer.needs_queries else ()
    try:
        wanted = [each for task in (None, *tasks) for each in pipeline.read_by(method, task).values()]
    except UserError:  # the method's parameters or packages are not there, nor then what it makes
        return False
    return not pipeline.store.missing(wanted)
