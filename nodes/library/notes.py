"""Text for people."""

from ..graph.declaration import local, node


@node("Note", "Note", "Notes", inputs=(local("text", "str", "", "What you want to remember.", cosmetic=True),))
def note(context, text):
    """A remark beside the nodes; it is never run. Shown as plain text."""
    return ()
