"""The torture of the service: real faults under real traffic, and an independent checker. `python -m torture --help`.

Judges from outside: it knows of the service its command line, its settings, its tables, its topics and its HTTP API.
"""
