"""The lecture's claims as experiments, and the report they make: `python -m experiments --help`.

Every experiment is one file in `experiments.claims`; beside that folder is the code that they share.
"""
