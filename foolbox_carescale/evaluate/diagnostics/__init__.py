"""Doubts about the numbers of a run: what was seen, for how many, and what to do about it.

``of_model`` asks the model before the first attack and costs a few passes over some samples;
``of_results`` reads the stored rows. Neither raises: a diagnostic is for the reader to judge.
"""

from .diagnostic import Diagnostic, announce, from_json, heard, to_json
from .model import of_model
from .results import STRENGTH, kind_of, of_results

__all__ = [
    "STRENGTH",
    "Diagnostic",
    "announce",
    "from_json",
    "heard",
    "kind_of",
    "of_model",
    "of_results",
    "to_json",
]
