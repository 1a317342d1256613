"""The platform operator's side of a training."""
