"""Make a bundle's model smaller and faster, and keep only what agrees with the original."""
