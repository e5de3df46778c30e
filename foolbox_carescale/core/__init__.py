"""Shared by operators and engines: tensors of any framework, one checked call, closed forms."""
