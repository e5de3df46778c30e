import contextlib
import gc
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import backends

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

# Before PyTorch is imported, here and in all processes that tests start: its threads wait actively,
# and tiny batches take a process longer with two of them where other tests want the second core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# JAX's programs are compiled once, as numba's are, and loaded in the next run.
for name, value in {
    "COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".jax_cache"),
    "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}.items():
    os.environ.setdefault(f"JAX_{name}", value)

# PyTorch's Triton and TensorFlow each bring an LLVM: where TensorFlow comes first, the import of
# Triton (by torch.compile, by torchvision) aborts the process.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# Time limits of single examples say nothing on a busy machine: the first call of a framework
# compiles. The seed is fixed, so that a failure is one of the change at hand.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=60, database=None
)
# pytest --hypothesis-profile=nightly: other examples every night, and more
hypothesis.settings.register_profile(
    "nightly", deadline=None, max_examples=600, database=None, print_blob=True
)
hypothesis.settings.load_profile("default")


# whose files need the same of numba's kernels, many of which take seconds to compile
OF_KERNELS = ("tests/engines/", "tests/operators/")
# which share MLflow's store and a process to fork from, each of which takes seconds to make
OF_TRAINING = ("tests/training/", "tests/evaluate/test_tracking.py")
# which need some of the kernels, too, and find them compiled if they come last; of these each test
# goes to the process that is free, so that both end at the same time
LAST = ("tests/attacks/",)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the order in which processes of pytest-xdist take the tests: file by file.

    What a file makes once, or compiles, is not made or compiled in every process. All files that
    compile kernels are one unit of work, about a third of all: one process begins with it, and
    another with the files that compile next to nothing. Those that train are another
    unit.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            for unit, files in (("kernels", OF_KERNELS), ("training", OF_TRAINING)):
                if nodeid.startswith(files):
                    return unit
            return nodeid if nodeid.startswith(LAST) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # by the number of tests; as they are collected instead
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that compile kernels first, and those that need some of these last."""
    items.sort(key=lambda i: i.nodeid.startswith(LAST) - i.nodeid.startswith(OF_KERNELS))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import all that tests need without the garbage collector, a quarter of the time.

    Nor does it search, while tests run, what is imported by then.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Spare the interpreter a search of everything, which takes it seconds to end."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    for ignored in (
        # foolbox/attacks/blur.py imports from an old name of SciPy's
        "ignore:Please (import|use) `gaussian_filter`:DeprecationWarning",
        # another process is writing it at this moment
        "ignore:Error reading persistent compilation cache entry:UserWarning",
        # MLflow asks SQLAlchemy in a way that SQLAlchemy 2.1 deprecates
        "ignore:The ``noload`` loader strategy is deprecated",
    ):
        config.addinivalue_line("filterwarnings", ignored)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[backends.Backend]:
    """``@pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)``."""
    with backends.make(request.param) as made:
        yield made


@pytest.fixture(scope="session")
def processes() -> Any:
    """Children of a process that has imported all that they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "foolbox_carescale.evaluate",
            "foolbox_carescale.training.trainer",
            "lightning_fabric",
            "torch._dynamo",
            "tests.evaluate.factories",
            "tests.training.factories",
        ]
    )
    return context


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Making the tables of a store takes MLflow seconds, so the tests share one."""
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; the tabs that a test opens in it are its own."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Reports whose figures are not drawn, which takes seconds: their files are empty."""

    def save(_: Any, path: Path, **__: Any) -> list[Path]:
        written = [path.with_suffix(kind) for kind in (".png", ".svg")]
        for file in written:
            file.touch()
        return written

    with pytest.MonkeyPatch.context() as patched:
        figures = "foolbox_carescale.evaluate.report.figures"
        patched.setattr(f"{figures}.save", save)
        for name in ("curves", "norms", "grid"):
            patched.setattr(f"{figures}.{name}", lambda *_, **__: None)
        yield
