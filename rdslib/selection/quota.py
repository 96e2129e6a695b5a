"""Limits on how much of a selection comes from each source of the pool.

A source has a *quota*. The selectors walk their ranked lists as they do without one, and a sample whose
source has its quota already is passed over like one that was taken: the turn is spent. A source that is full
stays full, so what may be taken of a run of offers is the first so many new samples of each source.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from rdslib.selection.round_robin import Allow, Limit


def per_source(sources: Sequence[str], k: int, most: int | None = None, balance: bool = False) -> Limit:
    """The limit for a selection of `k`, from the source of each sample of the pool.

    See `quotas` for `most` and `balance`. Samples that no query offers, and those that a window passes over,
    count as if the pool did not have them. Holds 8 bytes a sample. Raises ValueError, before anything is
    ranked, if the quotas are fewer than `k`.
    """
    codes: dict[str, int] = {}
    of = np.fromiter(
        (codes.setdefault(source, len(codes)) for source in sources), dtype=np.int64, count=len(sources)
    )
    counts = np.bincount(of, minlength=len(codes))
    quotas(counts, k, most, balance)

    def limit(outside: np.ndarray) -> Allow:
        offered = counts - np.bincount(of[outside], minlength=len(codes))
        return within(of, quotas(offered, k, most, balance))

    return limit


def quotas(counts: np.ndarray, k: int, most: int | None = None, balance: bool = False) -> np.ndarray:
    """How many of `k` samples each source may give: int64 [sources], from how many it has (int64 [sources]).

    `most`: no source gives more than that. `balance`: every source gives the same, but for those that have
    less and give all they have; what does not divide goes to the first sources that have more, one each. The
    quotas are then `k` in all. Both: the sources are balanced as if none had more than `most`.
    Raises ValueError if there are fewer than `k`.
    """
    room = counts if most is None else np.minimum(counts, most)
    if room.sum() < k:
        rule = "" if most is None else f" with at most {most} of a source"
        raise ValueError(f"{k} samples are asked for, but there are only {room.sum()} to choose from{rule}")
    if not balance:
        return room
    # The highest level to which all sources can be filled.
    level = bisect.bisect_right(range(k + 1), k, key=lambda level: np.minimum(room, level).sum()) - 1
    filled = np.minimum(room, level)
    filled[np.flatnonzero(room > level)[: k - filled.sum()]] += 1
    return filled


def within(of: np.ndarray, quotas: np.ndarray) -> Allow:
    """Allows a sample for as long as its source has room.

    `of` (int64 [samples]): of each sample of the pool, the number of its source; `quotas` (int64 [sources]).
    """

    def allow(picks: np.ndarray, offers: np.ndarray) -> np.ndarray:
        room = quotas - np.bincount(of[picks], minlength=len(quotas))
        _, first = np.unique(offers, return_index=True)
        new = offers[np.sort(first)]
        new = new[~np.isin(new, picks)]
        # Source by source, each in the order of its offers: how many of the source come before a sample.
        new = new[np.argsort(of[new], kind="stable")]
        source = of[new]
        before = np.arange(len(new)) - np.searchsorted(source, source)
        return ~np.isin(offers, new[before >= room[source]])

    return allow
