"""List the photos of a folder or table, and account for everything else in it."""
