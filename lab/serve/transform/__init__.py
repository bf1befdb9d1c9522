"""Batch transform: files through a model's own request handlers, without an endpoint (SageMaker: EP-60..EP-68)."""
