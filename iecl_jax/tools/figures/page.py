"""Makes the parts of a self-contained HTML page: frame, tables, pictures, listings."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from iecl_jax.evals.pictures import style

_DARK = ("#5cb3ea", "#ff8f4d", "#2fc89a", "#e5a0c8", "#9fd8f7", "#f3bd52")
_COLOURS = {
    "light": (style.COLOURS, "#fdfdfc", style.INK, "#626262", "#e2e2df", "#f4f4f1"),
    "dark": (_DARK, "#16181b", "#e6e6e3", "#a3a6aa", "#34373b", "#1f2226"),
}


def _variables(theme: str) -> str:
    lines, *rest = _COLOURS[theme]
    names = ("paper", "ink", "muted", "rule", "shade")
    named = {f"l{number}": colour for number, colour in enumerate(lines)}
    named |= dict(zip(names, rest, strict=True))
    return "".join(f"--{name}:{colour};" for name, colour in named.items())


_NUMBERS = range(len(style.COLOURS))
_CSS = f"""
:root {{ color-scheme: light dark; {_variables("light")} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables("dark")} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem;
  background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.6rem 0 .3rem; padding-top: .7rem;
  border-top: 1px solid var(--rule); }}
h3 {{ font-size: .92rem; font-weight: 600; margin: 0 0 .15rem; overflow-wrap: anywhere; }}
p {{ margin: .2rem 0 .9rem; max-width: 46rem; }}
p.lead, p.missing, .muted {{ color: var(--muted); }}
p.missing {{ font-style: italic; }}
.charts {{ display: grid; gap: 1.6rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }}
.pairs {{ margin-bottom: 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
figcaption {{ font-size: .84rem; color: var(--muted); }}
.chart {{ display: block; width: 100%; height: auto; }}
.chart text {{ font-size: 11px; fill: var(--muted); font-variant-numeric: tabular-nums; }}
.chart path {{ fill: none; stroke-width: 1.7; stroke-linejoin: round; }}
.chart .grid {{ stroke: var(--rule); stroke-width: 1; }}
.chart .axis {{ stroke: var(--muted); stroke-width: 1; }}
.chart .reference {{ stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3; opacity: .7; }}
.chart .band {{ stroke: none; opacity: .25; }}
.swatch {{ width: 22px; height: 8px; margin-right: .4em; }}
.swatch path {{ fill: none; stroke-width: 2.4; }}
.key {{ display: inline-block; margin-right: 1.1em; }}
.key b {{ color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }}
{"".join(f".c{n}{{stroke:var(--l{n})}} .chart .f{n}{{fill:var(--l{n})}}" for n in _NUMBERS)}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
table.full {{ width: 100%; max-width: 46rem; }}
th, td {{ text-align: right; padding: .3rem 0 .3rem 1.4rem; border-bottom: 1px solid var(--rule);
  vertical-align: top; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; overflow-wrap: break-word; }}
th {{ font-weight: 600; color: var(--muted); }}
dl {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1.2rem;
  margin: 1rem 0; font-size: .94rem; }}
dt {{ color: var(--muted); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
code, pre {{ font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: var(--shade);
  padding: .8rem 1rem; border-radius: 6px; margin: .5rem 0; }}
img {{ display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }}
.bar {{ width: 40%; min-width: 5rem; }}
.bar svg {{ display: block; width: 100%; height: .7rem; margin: .4rem 0; }}
.bar rect {{ fill: var(--l0); }}
summary {{ cursor: pointer; padding: .3rem 0; }}
details {{ margin: .4rem 0; }}
details > .charts {{ margin-top: .8rem; }}
.scroll + .scroll, .wide {{ margin-top: 1.5rem; }}
.wide img {{ max-width: min(100%, 46rem); }}
@media (max-width: 30rem) {{
  dl {{ grid-template-columns: 1fr; gap: 0; }}
  dd {{ margin-bottom: .4rem; }}
}}
"""


def frame(title: str, body: str) -> str:
    """Returns a whole page that loads nothing else. `title` is plain text, `body` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def facts(pairs: Mapping[str, Any]) -> str:
    """Returns names and values as a definition list, without values that are None or ""."""
    return (
        "<dl>"
        + "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
            for name, value in pairs.items()
            if value is not None and value != ""
        )
        + "</dl>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of plain text; the first column is aligned left, the others right."""

    def cells(kind: str, row: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in row) + "</tr>"

    body = "".join(cells("td", row) for row in rows)
    return f'<div class="scroll"><table>{cells("th", head)}{body}</table></div>'


def bars(head: Sequence[str], rows: Sequence[tuple[str, float, Sequence[str]]]) -> str:
    """Returns a table with a bar in each row: (plain text, share in [0, 1], more plain text).

    `head` names the text columns; the bar repeats the numbers of its row for the eye only.
    """
    first, *rest = head
    names = "".join(f"<th>{html.escape(name)}</th>" for name in rest)
    body = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="bar"><svg viewBox="0 0 100 1" '
        f'preserveAspectRatio="none" aria-hidden="true"><rect width="{100 * share:.1f}" '
        f'height="1"/></svg></td>{"".join(f"<td>{html.escape(text)}</td>" for text in texts)}</tr>'
        for name, share, texts in rows
    )
    return (
        f'<div class="scroll"><table class="full"><tr><th>{html.escape(first)}</th><th></th>{names}'
        f"</tr>{body}</table></div>"
    )


def image(png: bytes, description: str) -> str:
    """Returns a PNG embedded in the page."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def charts(figures: Sequence[str]) -> str:
    """Returns HTML figures in rows, with as many per row as fit."""
    return f'<div class="charts">{"".join(figures)}</div>'


def pairs(figures: Sequence[str]) -> str:
    """Returns wide HTML figures, two in a row where they fit."""
    return f'<div class="charts pairs">{"".join(figures)}</div>'


def paragraph(text: str, kind: str = "") -> str:
    """Returns plain text as a paragraph; `kind` is "", "lead" or "missing"."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def listing(text: str) -> str:
    """Returns preformatted plain text."""
    return f"<pre>{html.escape(text)}</pre>"


def folded(summary: str, body: str) -> str:
    """Returns HTML that is hidden until the reader opens the plain-text `summary`."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"
