"""A callback of your own: called after each iteration, with its metrics and fixed samples and the right to stop.

ddpo train "callbacks=[{name: examples/own_callback.py:Patience, iterations: 5}]" iterations=100
"""

from ddpo.training.callbacks import Moment


class Patience:
    """Ends a run whose reward has not risen for so many iterations, and keeps a list of its best ones."""

    def __init__(self, iterations: int = 5) -> None:
        self.iterations = iterations
        self.best, self.since = float("-inf"), 0

    def __call__(self, moment: Moment) -> None:
        reward = moment.metrics["reward/mean"]
        if reward > self.best:
            self.best, self.since = reward, moment.iteration
            with (moment.folder.path / "best.txt").open("a") as file:
                file.write(f"{moment.iteration} {reward:.4f}\n")
        elif moment.iteration - self.since >= self.iterations:
            moment.stop(f"no better reward than {self.best:.4f} for {self.iterations} iterations")
