import multiprocessing

import pytest


@pytest.fixture(scope="session")
def processes():
    """Children of a process that has imported all that they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "foolbox_carescale.training.trainer",
            "lightning_fabric",
            "torch._dynamo",
            "tests.training.factories",
        ]
    )
    return context
