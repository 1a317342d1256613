"""The trained model, and a catalogue of photos, at work."""
