"""`python -m ddpo`, for launchers such as `accelerate launch -m ddpo train`."""

from ddpo.cli import main

main()
