"""One mutant in a process of its own, before the tests of its module."""

from __future__ import annotations

import collections
import hashlib
import importlib
import importlib.util
import json
import linecache
import math
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = 8 << 30  # bytes: a mutant may ask for all there is
POLL = 0.02  # seconds


class Known:
    """The mutants that tests have killed before, kept in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.killed = set(path.read_text().split()) if path is not None and path.exists() else set()

    def __contains__(self, code: str) -> bool:
        return self._name(code) in self.killed

    def add(self, code: str) -> None:
        """Remember it."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(self._name(code) + "\n")

    def _name(self, code: str) -> str:
        return hashlib.sha256(code.encode()).hexdigest()


class Order:
    """A pytest plugin: first the tests that have killed most mutants, then the fastest."""

    def __init__(self) -> None:
        self.kills: collections.Counter[str] = collections.Counter()
        self.seconds: dict[str, float] = {}
        self.reports = -1

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort them."""
        items.sort(key=lambda i: (-self.kills[i.nodeid], self.seconds.get(i.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell the process that forked."""
        line = json.dumps([report.nodeid, report.duration, report.failed]) + "\n"
        os.write(self.reports, line.encode())


class Mutated(SourceFileLoader):
    """Finds one module, with other code than its file has."""

    def __init__(self, module: str, code: str) -> None:
        path = Path(module)
        self.package = path.name == "__init__.py"
        parts = (path.parent if self.package else path.with_suffix("")).parts
        super().__init__(".".join(parts), str(ROOT / path))
        self.code = code
        # Triton reads a kernel's source, by this
        linecache.cache[self.path] = len(code), None, code.splitlines(keepends=True), self.path

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """As a finder of ``sys.meta_path``."""
        if name != self.name:
            return None
        folder = [str(Path(self.path).parent)] if self.package else None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=self, submodule_search_locations=folder
        )

    def get_code(self, fullname: str) -> Any:
        """Compiled each time."""
        return compile(self.code, self.path, "exec", dont_inherit=True)


def trial(
    module: str, code: str, tests: list[str], order: Order, limit: float
) -> tuple[bool, float, str]:
    """The tests with this code in the place of the module's, for so many seconds of computing.

    Returns:
        Whether they fail, the seconds, and the test that failed first, if it was one.
    """
    sys.stdout.flush()
    with tempfile.TemporaryFile() as reports:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                order.reports = reports.fileno()
                _quiet()
                # of computing, so that a busy machine changes nothing
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                sys.meta_path.insert(0, Mutated(module, code))  # type: ignore[arg-type]
                options = ["-x", "-q", "--assert=plain"]
                for plugin in ("cacheprovider", "logging", "unraisableexception"):
                    options += ["-p", f"no:{plugin}"]
                status = int(pytest.main([*options, *tests], plugins=[order]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        status, seconds = _wait(child, limit)
        reports.seek(0)
        failed = ""
        for line in reports:
            name, duration, wrong = json.loads(line)
            order.seconds[name] = order.seconds.get(name, 0.0) + duration
            failed = name if wrong else failed
    return status != 0, seconds, failed


def _quiet() -> None:
    os.setsid()
    log = os.open(os.environ.get("MUTATION_LOG", os.devnull), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _wait(child: int, limit: float) -> tuple[int, float]:
    """The exit status and the seconds of computing; a child that waits forever is ended."""
    for _ in range(math.ceil((30 + 3 * limit) / POLL)):
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage.ru_utime + usage.ru_stime
        time.sleep(POLL)
    os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime
