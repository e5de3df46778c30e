"""What a run works on: its config without anything left to choose, and its data."""

from __future__ import annotations

import dataclasses

from foolbox_carescale.evaluate.config import Evaluation
from foolbox_carescale.evaluate.data import Data, load_data
from foolbox_carescale.evaluate.models import resolve_model


def resolve(evaluation: Evaluation) -> tuple[Evaluation, Data]:
    """The run with ``auto`` and None replaced by what they stand for, and its data.

    What is returned is all that another process needs: there ``load_model(run.model)`` and
    ``load_data(run.data, run.samples)`` give the same model and the same data.

    Raises:
        UserError: The data cannot be had, or the weights do not exist.
    """
    data = load_data(evaluation.data, evaluation.samples)
    model = resolve_model(evaluation.model, data=data.name, num_classes=data.num_classes)
    return dataclasses.replace(evaluation, model=model), data
