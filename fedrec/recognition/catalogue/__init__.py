"""A catalogue: products and their photos, found again by other photos."""
