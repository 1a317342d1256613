"""Chance, keys, differential privacy, secure aggregation and accounting."""
