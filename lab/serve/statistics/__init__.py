"""Anytime-valid statistics for live traffic: every bound holds at all times at once, however often one looks."""
