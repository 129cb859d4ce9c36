"""The version of the package, also where it runs from a folder without being installed."""

__version__ = "0.1.0"
