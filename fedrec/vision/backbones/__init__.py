"""Frozen networks, and the features that a linear head is trained on."""
