"""Resolve the defaults of a config, and open its data."""

from __future__ import annotations

import dataclasses

from ..config.types import DataConfig, Evaluation, ModelConfig
from ..data.dataset import Data
from ..data.sources import open_source
from ..errors import EvaluationWarning, warn
from ..models.loading import preset_of, resolve_model


def resolve(evaluation: Evaluation) -> tuple[Evaluation, Data]:
    """Return the run with ``auto`` and None replaced by what they stand for, and its data.

    What is returned is all that another process needs: there ``load_model(run.model)`` and
    ``open_data(run.data, run.samples)`` give the same model and the same data.

    Raises:
        UserError: The data cannot be had, or the weights do not exist.
    """
    source = open_source(evaluation.data)
    model = resolve_model(evaluation.model, data=source.name, num_classes=source.num_classes)
    view = view_of(evaluation.data, model)
    data = source.choose(view, evaluation.samples)
    preset = preset_of(model)
    classes = preset.num_classes if preset else None
    if preset and not data.class_names and data.num_classes in (0, classes):
        data.class_names = preset.class_names or []
    if model._target_ is None and classes is None and model.num_classes is None:
        model = dataclasses.replace(model, num_classes=data.count_classes())
    if classes is not None and data.num_classes not in (0, classes):
        warn(
            EvaluationWarning(
                f"the weights of {model.name} have {classes} classes, but {data.name} has"
                f" {data.num_classes}",
                "its label k must mean the model's class k",
            ),
            stacklevel=2,
        )
    return dataclasses.replace(evaluation, model=model, data=view), data


def view_of(data: DataConfig, model: ModelConfig) -> DataConfig:
    """Return the data in the size and interpolation of the weights, where the config has none."""
    preset = preset_of(model)
    if preset is None or preset.size is None:
        return data
    # another size is not cropped from the side that the weights' size is cropped from
    resize = data.resize or (preset.resize if data.size is None else None)
    return dataclasses.replace(
        data,
        size=data.size or preset.size,
        resize=resize,
        interpolation=data.interpolation or preset.interpolation,
    )
