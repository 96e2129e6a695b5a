"""What a person sees while long work runs: one line, that says which step it is at, and what is left."""

from __future__ import annotations

import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.cells import cell_len, set_cell_size

from rdslib.errors import plain
from rdslib.pipeline.step import Step

# Seconds between two lines: where a line is written over the one before, and where it is written under it.
OVER, UNDER = 0.5, 10.0


class Progress:
    """One line on standard error for all the steps: which one, how far it is, and the time that is left.

    In a terminal or a notebook the line is written over itself, and is gone at the end; in a file there is a
    new one from time to time. Only one of the processes at the same steps should write it; it counts what the
    others have made.

    The time left for the whole is the weight that is still to do, at the seconds per weight that steps
    of the same name have taken in this run (before the first of a name is done, those of all names).
    """

    def __init__(self) -> None:
        # How many processes work on the same steps.
        self.workers = 1
        self._todo: dict[str, Step] = {}
        self._total = 0
        self._has: Callable[[Step], bool] = lambda step: False
        self._now: Sequence[Step] = ()
        self._seconds: dict[str, float] = defaultdict(float)
        self._weight: dict[str, float] = defaultdict(float)
        # The columns that the line has, and when it was written.
        self._columns, self._written = 0, time.monotonic()

    def note(self, text: str) -> None:
        """Print one line that stays."""
        self.clear()
        print(plain(text), file=sys.stderr)

    def plan(self, steps: Sequence[Step], has: Callable[[Step], bool]) -> None:
        """Tell which steps will be computed, in order, and what says whether one is there by now."""
        self._todo = {step.hash: step for step in steps}
        self._total, self._has = len(steps), has

    def drop(self, step: Step) -> None:
        """Tell that a step is there, made by another process."""
        self._todo.pop(step.hash, None)

    def wait(self, steps: Sequence[Step]) -> None:
        """Show that what is left is being made by other processes, these steps first."""
        self._now = steps
        self._todo = {key: each for key, each in self._todo.items() if not self._has(each)}
        self._show(Bar(self._show, f"{steps[0].label or steps[0].name}, by another process", 0, ""))

    def clear(self) -> None:
        """Take the line away."""
        if self._columns:
            sys.stderr.write("\r" + " " * self._columns + "\r")
            sys.stderr.flush()
            self._columns = 0

    @contextmanager
    def step(self, steps: Sequence[Step]) -> Iterator[None]:
        """Show and time what is within, in which steps of one name are computed together."""
        self._now = steps
        self._todo = {key: each for key, each in self._todo.items() if each in steps or not self._has(each)}
        with self.bar(steps[0].label or steps[0].name, 0, "") as bar:
            yield
        self._seconds[steps[0].name] += time.monotonic() - bar.started
        for step in steps:
            self._weight[step.name] += step.weight
            self.drop(step)

    @contextmanager
    def bar(self, label: str, total: int, unit: str, initial: int = 0) -> Iterator[Bar]:
        """Show how far a step is, in `unit`; a `total` of 0 is not known, and one of 1 says nothing."""
        bar = Bar(self._show, label, total, unit, initial)
        if _over_itself():
            self._write(bar)
        try:
            yield bar
        finally:
            self.clear()

    def _show(self, bar: Bar) -> None:
        if time.monotonic() - self._written >= (OVER if _over_itself() else UNDER):
            self._write(bar)

    def _write(self, bar: Bar) -> None:
        text = self._line(bar)
        if _over_itself():
            # Blanks over what the line before had more.
            blanks = " " * (self._columns - cell_len(text))
            sys.stderr.write(f"\r{text}{blanks}")
            self._columns = cell_len(text)
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
        self._written = time.monotonic()

    def _line(self, bar: Bar) -> str:
        """The line; the step's name is cut where all of it does not fit the terminal."""
        planned = [each for each in self._now if each.hash in self._todo]
        place = f"[{self._total - len(self._todo) + 1}/{self._total}] " if planned else ""
        parts = bar.parts()
        left = self._left(bar) if len(planned) < len(self._todo) else None
        if left is not None:
            parts.append(f"all about {left / 60:.0f} min" if left >= 90 else f"all about {left:.0f} s")
        about = f": {', '.join(parts)}" if parts else ""
        name, room = plain(bar.label), shutil.get_terminal_size().columns - 1 - len(place + about)
        if _over_itself() and cell_len(name) > room:
            name = f"{set_cell_size(name, max(room - 1, 0))}…"
        return f"{place}{name}{about}"

    def _left(self, bar: Bar) -> float | None:
        """Seconds left for all planned steps, this one included; None while it is unknown."""
        own, weight = bar.left(), sum(step.weight for step in self._now)
        seconds, done = sum(self._seconds.values()), sum(self._weight.values())
        if done == 0 and own is not None:
            seconds, done = time.monotonic() - bar.started + own, weight
        if done == 0:
            return None

        def rate(name: str) -> float:
            known = self._weight[name] > 0
            return self._seconds[name] / self._weight[name] if known else seconds / done

        if own is None:
            own = max(0.0, weight * rate(self._now[0].name) - (time.monotonic() - bar.started))
        others = [step for step in self._todo.values() if step not in self._now]
        return max(own, (own + sum(step.weight * rate(step.name) for step in others)) / self.workers)


class Bar:
    """How far a step is: `n` of `total`, from `initial` on; it calls `show` with itself when it moves."""

    def __init__(
        self, show: Callable[[Bar], None], label: str, total: int, unit: str, initial: int = 0
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.n = self.initial = initial
        self.started = time.monotonic()
        self._show = show

    def update(self, n: int = 1) -> None:
        """Move on by `n`."""
        self.n += n
        self._show(self)

    def reset(self, total: int) -> None:
        """Begin again, now that the total is known."""
        self.n, self.initial, self.total, self.started = 0, 0, total, time.monotonic()

    def rate(self) -> float:
        """How many a second, since it began; 0 before the first."""
        return (self.n - self.initial) / max(time.monotonic() - self.started, 1e-9)

    def left(self) -> float | None:
        """Seconds that are left; None if that is not known."""
        return (self.total - self.n) / self.rate() if self.total and self.rate() else None

    def parts(self) -> list[str]:
        """How far it is, how fast, and what is left, as far as that is known."""
        if self.total == 1 or not (self.total or self.n):
            return []
        of = f"/{self.total:,}" if self.total else ""
        parts = [f"{self.n:,}{of} {self.unit}s"]
        if rate := self.rate():
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if (left := self.left()) is not None:
            parts.append(f"{timedelta(seconds=round(left))} left".removeprefix("0:"))
        return parts


def _over_itself() -> bool:
    """Whether standard error is where a line can be written over: a terminal or a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
