"""Training on Lightning: one adapter around a `LearningTask`, its callbacks and its checkpoints. Knows no task."""
