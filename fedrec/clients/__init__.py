"""Implement the merchant's side of a training."""
