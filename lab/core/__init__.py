"""Errors, signatures, lazy tables, seeding, timing: what every layer may import. Standard library and numpy only."""
