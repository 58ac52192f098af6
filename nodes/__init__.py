"""Typed nodes over core, and graphs of them: `graph` <- `execute` <- `library` <- `comfy`, each knowing only what stands before it.

Importing anything of this package fills the registry, `graph.declaration.NODES`: a graph means nothing without its nodes. No torch.
"""

from . import library  # noqa: F401 - fills NODES
