"""Add the digit and the noise that the interactive figure of idea.md uses."""

import json
from typing import Any

import numpy as np

MARK = "<!-- sample -->"
DIRECTIONS = 8
DIGIT = (
    0, 0, 5, 13, 9, 1, 0, 0,
    0, 0, 13, 15, 10, 15, 5, 0,
    0, 3, 15, 2, 0, 11, 8, 0,
    0, 4, 12, 0, 0, 8, 8, 0,
    0, 5, 8, 0, 0, 9, 8, 0,
    0, 4, 11, 0, 1, 12, 7, 0,
    0, 2, 14, 5, 10, 12, 0, 0,
    0, 0, 6, 13, 10, 0, 0, 0,
)  # fmt: skip
"""The first of scikit-learn's digits, which the docs need not install: pixels from 0 to 16."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the sample at its mark."""
    if MARK not in markdown:
        return markdown
    noise = np.random.default_rng(0).standard_normal((DIRECTIONS, len(DIGIT)))
    sample = {
        "x": [value / 16 for value in DIGIT],
        "directions": noise.round(3).tolist(),
    }
    script = f'<script type="application/json" id="sample">{json.dumps(sample)}</script>'
    return markdown.replace(MARK, script)
