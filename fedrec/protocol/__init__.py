"""Define the messages between server and merchants, and their encoding."""
