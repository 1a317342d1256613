"""The rules by which the server updates the global model with a round's opened sum, one file each."""
