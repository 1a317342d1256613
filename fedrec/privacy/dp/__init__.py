"""Compute a merchant's differentially private contribution: sample, clip, sum, round, add noise."""
