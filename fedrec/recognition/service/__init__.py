"""Serve a model and a catalogue over HTTP, and a page for shoppers and sellers; without torch."""
