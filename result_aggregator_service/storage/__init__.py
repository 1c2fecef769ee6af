"""PostgreSQL: the tables, and the repositories that are handed a session and never commit."""
