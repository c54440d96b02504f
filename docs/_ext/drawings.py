"""``drawing``: an SVG of ours within the page, so that it takes the colours of the theme."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Drawing(SphinxDirective):
    """Takes the path from the folder of the docs, and the caption as content."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the figure and its caption."""
        path = Path(self.env.srcdir, self.arguments[0])
        self.env.note_dependency(path)
        svg = path.read_text(encoding="utf-8")
        parts = [nodes.raw("", f'<figure class="lungunet">{svg}<figcaption>', format="html")]
        parts += self.parse_content_to_nodes()
        return [*parts, nodes.raw("", "</figcaption></figure>", format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True}
