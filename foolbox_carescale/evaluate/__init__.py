"""Measure the robust accuracy of a classifier, and the true size of every perturbation.

``evaluate(Evaluation())`` runs the embedded default; ``carescale evaluate`` does the same.
Names are imported on first use, so that the command line can say which extra is missing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foolbox_carescale.evaluate.compose import load_evaluation
    from foolbox_carescale.evaluate.config import (
        AttackConfig,
        DataConfig,
        Evaluation,
        ExecutorConfig,
        ModelConfig,
        TrackingConfig,
    )
    from foolbox_carescale.evaluate.errors import EvaluationWarning, UserError
    from foolbox_carescale.evaluate.report import print_comparison, print_report, write_report
    from foolbox_carescale.evaluate.results import CellSummary, Results
    from foolbox_carescale.evaluate.runner import Progress, evaluate
    from foolbox_carescale.evaluate.sweep import load_sweep

_HOMES = {
    "compose": ("load_evaluation",),
    "config": (
        "AttackConfig",
        "DataConfig",
        "Evaluation",
        "ExecutorConfig",
        "ModelConfig",
        "TrackingConfig",
    ),
    "errors": ("EvaluationWarning", "UserError"),
    "report": ("print_comparison", "print_report", "write_report"),
    "results": ("CellSummary", "Results"),
    "runner": ("Progress", "evaluate"),
    "sweep": ("load_sweep",),
}

__all__ = [
    "AttackConfig",
    "CellSummary",
    "DataConfig",
    "Evaluation",
    "EvaluationWarning",
    "ExecutorConfig",
    "ModelConfig",
    "Progress",
    "Results",
    "TrackingConfig",
    "UserError",
    "evaluate",
    "load_evaluation",
    "load_sweep",
    "print_comparison",
    "print_report",
    "write_report",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
