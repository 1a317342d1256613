"""Witnesses: members of a committee without photos, with an identity, a store of answers and no ledger."""
