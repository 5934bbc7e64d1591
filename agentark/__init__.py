__version__ = "0.1.0"

# By hand, as `__main__.py`: the names of `runs/surface.py` are found here when they are first used, so importing is free.

def __getattr__(name: str):
    if name.startswith("_"): raise AttributeError(name)
    from agentark.runs.surface import offered
    return offered(name)

def __dir__():
    from agentark.runs.surface import FACE
    return [*globals(), *FACE]
