import contextlib
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests import backends

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

# PyTorch's Triton and TensorFlow each bring an LLVM: where TensorFlow comes first, the import of
# Triton (by torch.compile, by torchvision) aborts the process.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# Time limits of single examples say nothing on a busy machine: the first call of a framework
# compiles. The seed is fixed, so that a failure is one of the change at hand.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=60, database=None
)
hypothesis.settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    for ignored in (
        # foolbox/attacks/blur.py imports from an old name of SciPy's
        "ignore:Please (import|use) `gaussian_filter`:DeprecationWarning",
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
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Making the tables of a store takes MLflow seconds, so the tests share one."""
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
