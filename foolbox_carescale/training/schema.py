"""The source of the JSON schema of ``carescale train``."""

from __future__ import annotations

from ..evaluate.config.schema import SchemaSpec
from ..evaluate.config.types import DTYPES, TRACKERS, ModelConfig, TrackingConfig
from .config import CONFIG_GROUPS, PRECISIONS, RECIPES, RecipeConfig, Training

TRAIN = SchemaSpec(
    "train",
    Training,
    CONFIG_GROUPS,
    {
        (ModelConfig, "dtype"): DTYPES,
        (TrackingConfig, "name"): TRACKERS,
        (RecipeConfig, "name"): RECIPES,
        (Training, "precision"): PRECISIONS,
    },
)
