"""Link names in signatures and docstrings to where they are documented.

A signature says ``lungunet.data.manifest.Pair``, the reader imports ``lungunet.Pair``; a docstring
says ``Segmented`` and means the one of its own package.
"""

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import lungunet


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the resolver, which Sphinx asks where it finds no target of its own."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Give the link, or None where the target is not ours or not documented."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    name = node["reftarget"].rpartition(".")[2]
    target = f"lungunet.{name}" if name in lungunet.__all__ else _only_one(domain.objects, name)
    if target is None:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def _only_one(documented: dict, name: str) -> str | None:
    found = [full for full in documented if full.endswith(f".{name}")]
    return found[0] if len(found) == 1 else None
