"""One line that tells how far a training is: rewritten on a terminal, now and then a new one in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TextIO

BAR = 24


class Progress:
    """Writes to a stream; `every_s` is how often a log gets a line."""

    def __init__(self, stream: TextIO, every_s: float = 20.0) -> None:
        self.stream, self.live = stream, stream.isatty()
        self.every_s = 0.2 if self.live else every_s
        self._started_s = self._last_s = time.monotonic()
        self._first: int | None = None
        self._mean: dict[str, float] = {}

    def step(self, done: int, of: int, said: Mapping[str, float]) -> None:
        """Tell that `done` steps of `of` are done; values are shown as means over about the last fifty steps."""
        self._first = done - 1 if self._first is None else self._first
        for name, value in said.items():
            before = self._mean.get(name, value)
            self._mean[name] = value if name == "rate" else before + (value - before) / 50
        now_s = time.monotonic()
        if done < of and now_s - self._last_s < self.every_s:
            return
        self._last_s = now_s
        each_s = (now_s - self._started_s) / (done - self._first)
        filled = BAR * done // of
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self._mean.items())
        line = (
            f"[{'#' * filled}{'.' * (BAR - filled)}] {done}/{of}  {figures}  "
            f"{1e3 * each_s:.0f} ms/step, {each_s * (of - done) / 60:.1f} min left"
        )
        self.stream.write(f"\r{line}\x1b[K" + ("\n" if done == of else "") if self.live else f"{line}\n")
        self.stream.flush()


__all__ = ["Progress"]
