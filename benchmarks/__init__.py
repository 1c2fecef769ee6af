"""Measurements of the shipped service: what it does in a second, and beside what. `python -m benchmarks --help`.

Judges from outside: it knows of the service its command line, its settings, its tables, its topics and its HTTP API.
"""
