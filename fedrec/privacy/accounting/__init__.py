"""Privacy accountants and the merchant's ledger."""
