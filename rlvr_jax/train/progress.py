"""Where a run is: one bar with an ETA on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

from rlvr_jax.train.processes import is_first

LINE_EVERY_S = 30.0


class Progress:
    """Shows units of work done out of all, on standard error."""

    def __init__(self, title: str, *, unit: str = "update"):
        self._title, self._unit = title, unit
        self._bar: tqdm | None = None
        self._last_line_s = time.monotonic()

    def update(self, done: int, total: int, text: str) -> None:
        """`done` of `total`, and a few words on how it stands."""
        if not is_first():
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, desc=self._title, unit=self._unit, dynamic_ncols=True)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_line_s > LINE_EVERY_S:
            self.line(f"{self._unit} {done}/{total}, {text}")

    def line(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        if not is_first():
            return
        tqdm.write(f"{self._title}: {text}", file=sys.stderr)
        self._last_line_s = time.monotonic()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
