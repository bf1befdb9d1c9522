"""Data sets: on-disk formats, the catalog and its resolver, deterministic preprocessing, sampling. No torch."""
