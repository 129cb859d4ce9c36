"""Trials of what goes wrong: the same in `tests/faults/`, at a fast size, and in `benchmarks/faults.py`, at full size.

A module per subject; a trial is a function decorated with `registry.trial` that yields a case at a time. To add one,
write it in a module here and name the module in `registry.SUBJECTS`.
"""
