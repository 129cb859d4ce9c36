"""One file per kind of sample: what a reward sees of it, what a report shows."""
