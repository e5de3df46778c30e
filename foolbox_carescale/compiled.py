"""torch.compile: each public operator is one node of the graph.

Dynamo cannot look into EagerPy's tensors. As a node in the graph an operator
is traced one level below, by AOTAutograd, where EagerPy is ordinary Python.
Imported while torch compiles, never before.
"""

from __future__ import annotations

from typing import Any

import torch

from . import rescale


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """The operator of this name, unseen by Dynamo."""
    return getattr(rescale, name).__wrapped__(*args, **kwargs)
