"""Verdicts on turns: the oracle, a local model, an endpoint or a Python function."""
