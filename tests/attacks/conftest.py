import pytest
import torch

# model_cases import Foolbox, which warns as the tests' own conftest knows: not before it is loaded


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny batches gain nothing from threads, and lose much where other processes are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def case(request):
    """``@pytest.mark.parametrize("case", model_cases.WITH_GRADIENT, indirect=True)``."""
    from tests.attacks import model_cases

    made = model_cases.make(request.param)
    model_cases.seed(made.backend.framework)
    return made


@pytest.fixture(scope="session")
def digits():
    """The bundled digits model with 32 images: the strength of an attack in small."""
    from tests.attacks import model_cases

    return model_cases.digits(32)
