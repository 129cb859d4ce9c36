"""The loop, the run, saving and going on: `trainer.py` is the paper."""
