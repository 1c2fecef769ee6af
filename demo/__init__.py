"""The demo: real servers from wheels, the service as production starts it, real traffic, and a referee."""
