"""The rules by which the server's learning rate changes from step to step, one file each."""
