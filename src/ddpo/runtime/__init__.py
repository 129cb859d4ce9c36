"""Processes and devices, signals, files, errors, the terminal."""
