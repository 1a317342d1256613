"""Read what a photo's file says about itself, before a decoder is let near it.

A few bytes can keep a decoder busy for minutes or make it take gigabytes. Each module here walks the
structure of one format, in time that the file's length bounds, and refuses what no photo has.
"""
