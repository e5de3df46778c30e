"""The run folder: what is written, how it is checked, and how it is read."""
