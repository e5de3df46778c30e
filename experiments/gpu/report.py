"""Lines of a check: ``name: value (goal) ok|MISS|info``, printed and kept."""

from __future__ import annotations

import datetime
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Report:
    """What was found so far, by section."""

    def __init__(self) -> None:
        self.sections: dict[str, list[str]] = {"": []}
        self.missed: list[str] = []
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the time since the report was made."""
        return time.perf_counter() - self.began

    def section(self, name: str) -> None:
        """Begin a section."""
        self.sections[name] = []
        print(f"## {name} ({self.seconds:.0f} s)", flush=True)

    def note(self, text: str) -> None:
        """Add a line as it is."""
        [*_, lines] = self.sections.values()
        lines.append(text)
        print(text, flush=True)

    def copy(self, name: str, lines: list[str]) -> None:
        """Add a section that another report has printed."""
        self.section(name)
        for line in lines:
            self.note(line)
            if line.endswith(" MISS"):
                self.missed.append(line)

    def add(self, name: str, value: Any, goal: str = "-", ok: Any = None) -> None:
        """Add a value; ``ok`` says whether it meets the goal, None that there is no goal."""
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        line = f"{name}: {shown} ({goal}) {'info' if ok is None else 'ok' if ok else 'MISS'}"
        self.note(line)
        if ok is not None and not ok:
            self.missed.append(line)

    def at_most(self, name: str, value: float, goal: float) -> None:
        """Add a value that is to be at most the goal; NaN is not."""
        self.add(name, float(value), f"<= {goal:g}", value <= goal)

    def at_least(self, name: str, value: float, goal: float) -> None:
        """Add a value that is to be at least the goal; NaN is not."""
        self.add(name, float(value), f">= {goal:g}", value >= goal)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Turn an exception into a line that misses its goal, so that the next check goes on."""
        try:
            yield
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = (str(error).splitlines() or [""])[0][:160]
            found = f"{type(error).__name__}: {said} [{Path(place.filename).name}:{place.lineno}]"
            self.add(name, found, "no exception", ok=False)

    def markdown(self, title: str) -> str:
        """Return the document: device, misses, and each section's lines as a table."""
        now = datetime.datetime.now(datetime.timezone.utc)
        lines = [f"# {title}", "", f"Measured {now:%Y-%m-%d}, in {self.seconds:.0f} s.", ""]
        lines += [f"- {line}" for line in self.sections[""]]
        lines += ["", f"## Missed goals: {len(self.missed)}", ""]
        lines += [f"- {line}" for line in self.missed] or ["None."]
        for name, found in self.sections.items():
            if name:
                lines += ["", f"## {name}", "", *(f"- {line}" for line in found)]
        return "\n".join(lines) + "\n"
