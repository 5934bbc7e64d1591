"""`python -m agentark`, for launchers that start modules. Written by hand, and described in nbs/11_runs/08_cli.ipynb."""
from .runs.cli import main

if __name__ == "__main__": raise SystemExit(main())
