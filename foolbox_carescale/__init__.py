"""Clipping-aware rescaling for Foolbox: perturbations that are exactly epsilon after the clip."""

__version__ = "0.1.0"
