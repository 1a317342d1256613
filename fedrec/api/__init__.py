"""What ``import fedrec`` offers, one file for each part; for users of the package, never for the package."""
