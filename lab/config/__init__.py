"""Configuration: YAML and dotted overrides become frozen, strict pydantic models."""
