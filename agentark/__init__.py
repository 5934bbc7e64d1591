import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")   # OpenMP threads that wait sleep, unless the user says otherwise

__version__ = "0.1.0"

# By hand, as `__main__.py`: the names of `runs/surface.py` are found here when they are first used, so importing is free.

def __getattr__(name: str):
    if name.startswith("_"): raise AttributeError(name)
    from agentark.runs.surface import offered
    return offered(name)

def __dir__():
    from agentark.runs.surface import FACE
    return [*globals(), *FACE]
