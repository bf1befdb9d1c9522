"""Probabilistic forecasting of many related time series with DeepAR (Salinas et al., arXiv 1704.04110)."""
