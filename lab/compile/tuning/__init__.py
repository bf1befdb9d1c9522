"""Tuning: what rules decide by a model, decided by measuring; records of it are kept and used by `lab compile`."""
