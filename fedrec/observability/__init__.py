"""Show the state of a long job: progress, health, metrics."""
