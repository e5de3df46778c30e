"""Experiments on training with exact perturbations, one command each."""
