"""Matplotlib's figures as inline SVG: text stays text, and the page's style sets its colours and font.

Matplotlib is here anyway, and its SVG needs no script: a chart is some 10 kB that prints and follows a dark
theme, where plotly.js adds 4 MB to every page and Vega 0.8 MB.
"""

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cann_jax.analysis.curve_plots import Colours

SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
# Stand-ins that no picture uses by chance; each becomes a variable of the page's style.
INK, MUTED, BEFORE, AFTER, REACH, TINT = (f"#0{n}0{n}0{n}" for n in range(1, 7))
VARIABLES = {INK: "ink", MUTED: "muted", BEFORE: "before", AFTER: "after", REACH: "reach", TINT: "tint"}
COLOURS = Colours(ink=INK, muted=MUTED, line=BEFORE, point=AFTER, reach=REACH)

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cann_jax",  # the same picture is the same text
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
}
WIDTH, HEIGHT = 4.4, 2.9  # inches


def drawn(draw: Callable[[Axes], None], name: str, title: str, height: float = HEIGHT) -> Markup:
    """Return what ``draw`` draws on new axes as inline SVG; ``name`` makes its ids the page's only ones."""
    with rc_context(STYLE):
        figure, text = Figure(figsize=(WIDTH, height)), io.StringIO()
        draw(figure.subplots())
        figure.savefig(text, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
    return inline(text.getvalue(), name, title)


def inline(text: str, name: str, title: str) -> Markup:
    """Return a Matplotlib SVG for inclusion in a page: ids of its own, a title, and the page's colours."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(text)
    for defs in root.iter(f"{{{SVG}}}defs"):
        for style in defs.findall(f"{{{SVG}}}style"):
            defs.remove(style)  # it would apply to the whole page
    for extra in root.findall(f"{{{SVG}}}metadata"):
        root.remove(extra)
    _prefix_ids(root, f"{name}-")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "stroke-linejoin": "round"}
    label = ElementTree.Element(f"{{{SVG}}}title", {"id": f"{name}-title"})
    label.text = title
    root.insert(0, label)
    found = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in VARIABLES.items():
        found = found.replace(colour, f"var(--{variable})")
    return Markup(re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1", found))


def _prefix_ids(root: ElementTree.Element, prefix: str) -> None:
    """Give ids that are referred to a prefix, and drop the others."""
    references = (value for element in root.iter() for value in element.attrib.values())
    used = {name for value in references for name in re.findall(r"(?:^|\()#([\w.-]+)", value)}
    for element in root.iter():
        if element.attrib.get("id") in used:
            element.attrib["id"] = prefix + element.attrib["id"]
        else:
            element.attrib.pop("id", None)
        if target := element.attrib.pop(XLINK, None):
            element.attrib["href"] = "#" + prefix + target.removeprefix("#")
        for key in ("clip-path", "style"):
            if key in element.attrib:
                element.attrib[key] = element.attrib[key].replace("url(#", f"url(#{prefix}")
