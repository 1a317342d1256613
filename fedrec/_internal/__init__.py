"""Private helpers of the package; code outside it must not import them."""
