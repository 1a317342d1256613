"""What server and merchant say to each other and how it travels: the only place where the two meet."""
