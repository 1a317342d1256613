"""A package that is not fedrec's: it adds a choice of each kind by entry points."""
