"""How the service waits and gives way when a server is in trouble."""
