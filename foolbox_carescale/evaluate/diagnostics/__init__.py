"""Diagnostics: reasons not to trust the numbers of a run, each with a remedy.

``of_model`` queries the model before the first attack and costs a few passes over some samples;
``of_results`` reads the stored rows. Neither raises: a diagnostic is for the reader to judge.
"""

from .diagnostic import Diagnostic, capture_warnings, emit, from_dicts, to_dicts
from .model import of_model
from .results import of_results

__all__ = [
    "Diagnostic",
    "capture_warnings",
    "emit",
    "from_dicts",
    "of_model",
    "of_results",
    "to_dicts",
]
