"""Secure aggregation: encrypt, add, open only the sum."""
