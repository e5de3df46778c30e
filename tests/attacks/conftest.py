import pytest

# model_cases import Foolbox, which warns as the tests' own conftest knows: not before it is loaded


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
