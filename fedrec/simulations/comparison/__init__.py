"""Compare finished runs: group repeats, compute means with intervals, and lay out a table and a plot."""
