"""Audit bundles: what an outsider needs to recheck merchants' privacy budgets, and the check itself."""
