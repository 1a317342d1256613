"""Show where in a photo the evidence for a class lies."""
