"""Edits of a workflow's text: each changes the few characters concerned, and keeps comments, order, quotes and layout.

An edit is a function from a ``Document`` to a ``Document``, so that edits can be chained; ``document.text`` is the text::

    document = Document.parse(text, file)
    document = set_value(document, "params.scale.default", 6)
    document = set_value(document, "nodes.sample.body.guided.in.scale", "params.scale")

An edit that cannot be made raises ``WorkflowError``. Edits look at the text alone: whether the result is a valid workflow is
for ``guidegraph.edit_workflow`` to check, which also writes the file.
"""
