"""Images, labels, models and metrics."""
