"""Campaigns whose uploads arrive over days: each merchant is connected once, the committee once more."""
