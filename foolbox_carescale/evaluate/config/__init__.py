"""The configuration of a run: types, YAML files with overrides, sweeps, the JSON schema."""
