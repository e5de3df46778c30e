"""Doubts about the numbers of a run: what was seen, for how many, and what to do about it.

``of_model`` asks the model before the first attack and costs a few passes over some samples;
``of_results`` reads the stored rows. Neither raises: a doubt is for the reader to judge.
"""

from foolbox_carescale.evaluate.doubts.doubt import Doubt, announce, from_json, heard, to_json
from foolbox_carescale.evaluate.doubts.model import of_model
from foolbox_carescale.evaluate.doubts.results import STRENGTH, kind_of, of_results

__all__ = [
    "STRENGTH",
    "Doubt",
    "announce",
    "from_json",
    "heard",
    "kind_of",
    "of_model",
    "of_results",
    "to_json",
]
