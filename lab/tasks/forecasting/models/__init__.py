"""Forecasting networks, one per file; each entry is `build(model configuration, preprocessing) -> nn.Module`."""

from lab.core.tables import LazyTable

MODELS = LazyTable("model", {"deepar": "lab.tasks.forecasting.models.deepar:build"})
