"""Manifests, the layout of a run's folder, atomic writes, hashes. Standard library and numpy only."""
