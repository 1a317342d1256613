"""A whole federated run on one machine."""
