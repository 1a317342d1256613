"""Attacks on our own protection: what each party could learn from what it sees."""
