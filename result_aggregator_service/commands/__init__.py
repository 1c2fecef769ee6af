"""What an operator types, beside `serve`. Each command opens what it needs, does one thing and ends with a status."""
