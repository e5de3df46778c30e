"""Computes units one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foolbox_carescale.evaluate.cells import Unit, Units
from foolbox_carescale.evaluate.config import Evaluation
from foolbox_carescale.evaluate.data import Data
from foolbox_carescale.evaluate.store import Part
from foolbox_carescale.evaluate.worker import Introduction, make_worker


class LocalExecutor:
    """One worker in this process, with the run's number of PyTorch threads until ``stop``."""

    def __init__(self, evaluation: Evaluation, data: Data, units: Units) -> None:
        self._evaluation, self._data, self._units = evaluation, data, units
        self._threads = torch.get_num_threads()

    def start(self) -> Introduction:
        """Load the model."""
        torch.set_num_threads(self._evaluation.threads or self._threads)
        self._worker, introduction = make_worker(self._evaluation, self._data, self._units)
        return introduction

    def run(self, units: Iterator[Unit]) -> Iterator[tuple[Unit, Part]]:
        """Compute units in their order."""
        for unit in units:
            yield unit, self._worker.run(unit)

    def stop(self) -> None:
        """Set the number of threads back."""
        torch.set_num_threads(self._threads)
