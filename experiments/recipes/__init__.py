"""Research programs of at most forty lines each, to copy from; `tests/experiments/test_recipes.py` checks every one."""
