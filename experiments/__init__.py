"""The lecture's claims as experiments, and the report they make: `python -m experiments --help`.

A new experiment is a new file here with a function ``train(settings, show) -> Outcome``; it is found by its file name.
"""
