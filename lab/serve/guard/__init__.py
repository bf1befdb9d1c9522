"""Guardrails: what may happen to an endpoint's weights without a person, and on which evidence."""
