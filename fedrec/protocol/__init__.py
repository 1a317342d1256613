"""What server and merchant say to each other, the only place where the two meet."""
