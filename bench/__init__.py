"""Measurements: one runner, peers side by side in the same run, interleaved, medians and ratios, JSON out.

`python -m bench` runs all of them, `python -m bench NAME …` some. Each module here that has a `measure() -> dict` is one.
Absolute times depend on the machine and are never quoted; ratios within one run are.
"""
