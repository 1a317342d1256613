"""Small helpers of the package's own; nothing outside it may count on them."""
