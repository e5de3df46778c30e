"""The operators: clipping-aware rescaling, and the moves built on it."""
