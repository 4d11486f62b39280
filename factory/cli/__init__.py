"""The roof: the commands of ``factory``, one file a group.  Heavy packages are imported inside functions only."""

from __future__ import annotations

import os

# Threads that wait for each other without spinning: on a busy machine a training is five times faster for it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from factory.cli import care, clusters, demo, doctor, estimating, look, making, sequence, training  # noqa: F401  (their commands)
from factory.cli.app import app


def main() -> None:
    """Entry point of the console script."""
    app()
