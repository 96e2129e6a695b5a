"""What a person sees while long work runs: which step, how fast, and how long it still takes."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from rdslib.errors import plain
from rdslib.pipeline.step import Step


class Progress:
    """Progress bars on standard error, one a step, with the time left for all the steps in front.

    The time left for the whole is the weight that is still to do, at the seconds per weight that steps
    of the same name have taken in this run (before the first of a name is done, those of all names).
    """

    def __init__(self) -> None:
        # How many processes work on the same steps.
        self.workers = 1
        self._todo: dict[str, Step] = {}
        self._total = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._weight: dict[str, float] = defaultdict(float)
        self._started = 0.0

    def note(self, text: str) -> None:
        """Print one line that stays."""
        tqdm.write(plain(text), file=sys.stderr)

    def plan(self, steps: Sequence[Step]) -> None:
        """Tell which steps will be computed, in order."""
        self._todo = {step.hash: step for step in steps}
        self._total = len(steps)

    def drop(self, step: Step) -> None:
        """Tell that a step is there, made by another process."""
        self._todo.pop(step.hash, None)

    @contextmanager
    def step(self, steps: Sequence[Step]) -> Iterator[None]:
        """Time what is within, in which steps of one name are computed together."""
        started = time.monotonic()
        yield
        self._seconds[steps[0].name] += time.monotonic() - started
        for step in steps:
            self._weight[step.name] += step.weight
            self.drop(step)

    def bar(self, label: str, total: int, unit: str, initial: int = 0) -> tqdm[Any]:
        """A progress bar: `unit` per second and the time left of this step, then of all steps."""
        prefix = f"[{self._total - len(self._todo) + 1}/{self._total}] " if self._todo else ""
        return tqdm(
            total=total,
            initial=initial,
            unit=unit,
            unit_scale=True,
            desc=prefix + plain(label),
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            bar_format="{desc}: {percentage:3.0f}% |{bar:12}| "
            "{n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left" + self._left(),
            leave=True,
        )

    def _left(self) -> str:
        """The time left for all planned steps, this one included; empty while it is unknown."""
        seconds, weight = sum(self._seconds.values()), sum(self._weight.values())
        if not self._todo or weight == 0:
            return ""
        total = 0.0
        for step in self._todo.values():
            known = self._weight[step.name] > 0
            rate = self._seconds[step.name] / self._weight[step.name] if known else seconds / weight
            total += step.weight * rate / self.workers
        return ", all steps about " + (f"{total / 60:.1f} min" if total >= 60 else f"{total:.0f} s")
