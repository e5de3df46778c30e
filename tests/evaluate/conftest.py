import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny batches gain nothing from threads, and lose much where other processes are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uncompacted(monkeypatch):
    """Let each task keep a file of its own, as until so many are there, or in a killed process."""
    compact = "foolbox_carescale.evaluate.store.rows.RowStore.compact"
    monkeypatch.setattr(compact, lambda self: None)
