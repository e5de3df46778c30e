import pytest


@pytest.fixture
def uncompacted(monkeypatch):
    """Let each task keep a file of its own, as until so many are there, or in a killed process."""
    compact = "foolbox_carescale.evaluate.store.rows.RowStore.compact"
    monkeypatch.setattr(compact, lambda self: None)
