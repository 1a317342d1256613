"""Attacks on our own protection: what each party could make of what it sees."""
