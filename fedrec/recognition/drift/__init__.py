"""Watch what a model is asked: an alarm when the photos differ from those of a reference."""
