"""Policies: one file per model family."""
