"""fedrec: federated product recognition with record-level privacy under encrypted aggregation."""

__version__ = "0.1.0"
