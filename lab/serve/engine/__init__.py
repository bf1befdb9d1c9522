"""Running models: loading, batching, executor threads."""
