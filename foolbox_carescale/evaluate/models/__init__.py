"""Models by name or import path, their weights and preprocessing."""
