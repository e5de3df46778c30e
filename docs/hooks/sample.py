"""Add the digit and the noise that the interactive figure of idea.md uses."""

import json
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

MARK = "<!-- sample -->"
DIRECTIONS = 8


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the sample at its mark."""
    if MARK not in markdown:
        return markdown
    data: Any = load_digits()
    noise = np.random.default_rng(0).standard_normal((DIRECTIONS, data.data.shape[1]))
    sample = {
        "x": (data.data[0] / 16).tolist(),
        "directions": noise.round(3).tolist(),
    }
    script = f'<script type="application/json" id="sample">{json.dumps(sample)}</script>'
    return markdown.replace(MARK, script)
