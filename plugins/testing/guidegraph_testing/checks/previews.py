"""A plugin's preview of a value of its own type is a text or a PNG, and leaves the value as it is."""

from __future__ import annotations

import copy

from guidegraph.plugins.contribution import make_hook_manager
from guidegraph.plugins.entry_points import PluginError
from guidegraph.plugins.previews import HOOK, check_preview, find_own_type
from guidegraph_testing.applicable import list_plugin_types
from guidegraph_testing.arguments import call_node, make_arguments
from guidegraph_testing.case import NodeCase
from guidegraph_testing.comparison import is_identical


def check_previews(case: NodeCase) -> None:
    """The hook ``guidegraph_preview`` accepts each output that has a type of the plugin."""
    hooks = make_hook_manager()
    hooks.register(case.plugin)
    outputs = call_node(case, make_arguments(case))
    for name, value in outputs.items():
        cls = find_own_type(case.spec.outputs[name], value, list_plugin_types(case.plugin))
        if cls is None:
            continue
        before = copy.deepcopy(value)
        expected = f"a preview of the output '{name}' ({cls.__name__})"
        try:
            for preview in hooks.hook.guidegraph_preview(value=value, port_type=cls):
                check_preview(preview)
        except PluginError as error:
            raise case.error(expected, str(error), error.fix) from error
        except Exception as error:
            remedy = "repair the hook; for a value that it cannot show, return None"
            raise case.error(expected, f"{type(error).__name__}: {error}", remedy) from error
        if not is_identical(value, before):
            remedy = "work on a copy: the run goes on with the value"
            raise case.error(f"the output '{name}' as it was", f"{HOOK} changes it", remedy)
