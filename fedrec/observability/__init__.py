"""What a person sees of a long job: progress, health, metrics."""
