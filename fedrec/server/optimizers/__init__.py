"""The rules by which the server moves the global model along what a round's sum opens to, one file each."""
