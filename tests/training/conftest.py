import pytest
import torch


@pytest.fixture
def prepared(processes, monkeypatch):
    """Have the processes of a training start as such children, not each import all for itself."""
    start = torch.multiprocessing.start_processes

    def start_prepared(*arguments, start_method, **keywords):
        assert start_method == "spawn"
        return start(*arguments, start_method="forkserver", **keywords)

    monkeypatch.setattr(torch.multiprocessing, "start_processes", start_prepared)
