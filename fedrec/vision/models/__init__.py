"""The models a training can name."""
