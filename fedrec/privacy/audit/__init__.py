"""Audit bundles: everything an outsider needs to recheck merchants' privacy budgets, and the check itself."""
