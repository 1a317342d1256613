"""A merchant's own page: what its daemon does, what that costs, which photos are used, and buttons to act."""
