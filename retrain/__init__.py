"""Keeps fine-tuned LLM adapters fresh in production: monitor, collect, retrain, gate, promote."""

__version__ = "0.1.0"
