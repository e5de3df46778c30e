"""Tasks, and what runs them: one process, shards or a cluster."""
