"""Evaluate the robust accuracy of a classifier, and the measured norm of every perturbation.

``evaluate(Evaluation())`` runs the bundled default; ``carescale evaluate`` does the same.
Names are imported on first use, so that the command line can say which extra is missing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config.compose import load_evaluation
    from .config.executors import ExecutorConfig
    from .config.sweep import load_sweep
    from .config.types import (
        AttackConfig,
        DataConfig,
        Evaluation,
        ModelConfig,
        ReportConfig,
        TrackingConfig,
    )
    from .data.digits import digits
    from .errors import EvaluationWarning, UserError
    from .models.loading import load_model
    from .report import plot_curves, print_comparison, print_report, write_report
    from .report.curve import CurvePoint, accuracy_at
    from .runner.completion import Progress
    from .runner.run import evaluate
    from .store.results import MinimumNorms, Results, SettingSummary
    from .verification.measure import Check, Verification, verify
    from .verification.runs import VerifiedSetting, verify_run

_HOMES = {
    "config.compose": ("load_evaluation",),
    "config.executors": ("ExecutorConfig",),
    "config.types": (
        "AttackConfig",
        "DataConfig",
        "Evaluation",
        "ModelConfig",
        "ReportConfig",
        "TrackingConfig",
    ),
    "data.digits": ("digits",),
    "errors": ("EvaluationWarning", "UserError"),
    "models.loading": ("load_model",),
    "report": ("plot_curves", "print_comparison", "print_report", "write_report"),
    "report.curve": ("CurvePoint", "accuracy_at"),
    "store.results": ("SettingSummary", "Results", "MinimumNorms"),
    "runner.completion": ("Progress",),
    "runner.run": ("evaluate",),
    "config.sweep": ("load_sweep",),
    "verification.measure": ("Check", "Verification", "verify"),
    "verification.runs": ("VerifiedSetting", "verify_run"),
}

__all__ = [
    "AttackConfig",
    "Check",
    "CurvePoint",
    "DataConfig",
    "Evaluation",
    "EvaluationWarning",
    "ExecutorConfig",
    "MinimumNorms",
    "ModelConfig",
    "Progress",
    "ReportConfig",
    "Results",
    "SettingSummary",
    "TrackingConfig",
    "UserError",
    "Verification",
    "VerifiedSetting",
    "accuracy_at",
    "digits",
    "evaluate",
    "load_evaluation",
    "load_model",
    "load_sweep",
    "plot_curves",
    "print_comparison",
    "print_report",
    "verify",
    "verify_run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
