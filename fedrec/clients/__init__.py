"""The merchant's side of a training."""
