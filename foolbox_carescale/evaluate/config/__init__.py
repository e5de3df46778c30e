"""What a run is configured by: types, YAML files with overrides, sweeps, the JSON schema."""
