"""Edits of a workflow's text: each changes the few characters concerned, and keeps comments, order, quotes and layout.

An edit is a function from a ``Document`` to a ``Document``, so that edits can be chained. Its ``text`` is the text::

    document = Document.parse(text, file)
    document = set_value(document, "params.scale.default", 6)
    document = set_value(document, "nodes.sample.body.guided.in.scale", "params.scale")

``values``: ``set_value``, ``remove_value``. ``nodes``: ``add_node``, ``remove_node``, ``rename_node``, ``move_node``.
``parameters``: ``add_parameter``, ``remove_parameter``, ``rename_parameter``. ``paths`` says where a path such as
``nodes.sample.body.guided.in.scale`` leads.

An edit that cannot be made raises ``WorkflowError``. Edits look at the text alone: ``guidegraph.edit.WorkflowEditor``
checks that the result is a valid workflow, writes the file and undoes edits.
"""
