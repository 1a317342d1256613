"""Record-level differential privacy: sample, clip, round, add noise."""
