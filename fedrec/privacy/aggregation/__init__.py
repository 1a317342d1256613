"""Secure aggregation: encrypt updates, add ciphertexts, open only the sum."""
