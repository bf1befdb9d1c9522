"""An open, self-hosted deep-learning lab: train, export, compile, compare, deploy."""

__version__ = "0.1.0"
