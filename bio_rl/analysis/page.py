"""A report as one HTML page that needs nothing else: no network, no file beside it.

Its only script sorts tables, where there are some to be sorted; without it the page shows the same. Everything that
is written into it is text: whatever a run is called stays a name.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape

from bio_rl.analysis import svg
from bio_rl.analysis.report import Picture, Report, Section, Table


def _palette(name: str, others: str) -> str:
    return others + " ".join(f"--line-{number}: {colour};" for number, colour in enumerate(svg.PALETTES[name]))


LIGHT = _palette("light", "--page: #ffffff; --card: #f6f7f9; --text: #1b1f24; --quiet: #57606a; --faint: #d8dee4; ")
DARK = _palette("dark", "--page: #14171b; --card: #1d2127; --text: #e6e9ed; --quiet: #a3acb7; --faint: #363d46; ")
STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
@media print {{ :root {{ color-scheme: light; {LIGHT} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 72rem; padding: 1rem clamp(0.75rem, 3vw, 2.5rem) 3rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0 1rem; }}
h2 {{ font-size: 1.15rem; margin: 2.25rem 0 0.25rem; padding-top: 0.75rem; border-top: 1px solid var(--faint); }}
summary {{ font-size: 1.15rem; font-weight: 600; margin-top: 2.25rem; padding-top: 0.75rem; cursor: pointer;
  border-top: 1px solid var(--faint); }}
p {{ margin: 0.25rem 0 0.75rem; max-width: 48rem; color: var(--quiet); }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: 0.75rem 1.25rem;
  margin: 0; padding: 1rem; background: var(--card); border-radius: 8px; }}
.facts .long {{ grid-column: 1 / -1; }}
.facts dt {{ font-size: 0.8rem; color: var(--quiet); }} .facts dd {{ margin: 0; font-weight: 600; }}
.problems {{ margin: 1rem 0; padding: 0.75rem 1rem 0.75rem 2rem; border-left: 4px solid var(--line-1);
  background: var(--card); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }}
figure {{ margin: 0; padding: 0.75rem; background: var(--card); border-radius: 8px; break-inside: avoid;
  max-width: 42rem; }}
figure.large {{ grid-column: 1 / -1; max-width: none; overflow-x: auto; }} figure.large .chart {{ min-width: 40rem; }}
figcaption {{ font-size: 0.9rem; font-weight: 600; margin-bottom: 0.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 0.75rem 0; font-size: 0.9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }}
th, td {{ padding: 0.3rem 1.25rem 0.3rem 0; text-align: left; border-bottom: 1px solid var(--faint); }}
th {{ font-weight: 600; vertical-align: bottom; }} .number {{ text-align: right; }}
.sortable td {{ white-space: nowrap; }} .sortable :is(th, td) {{ padding-right: 0.9rem; }}
.sortable th {{ cursor: pointer; }} .sortable th:hover {{ text-decoration: underline; }}
th[aria-sort=ascending]::after {{ content: " ▲"; }} th[aria-sort=descending]::after {{ content: " ▼"; }}
.notes {{ font-size: 0.85rem; color: var(--quiet); margin: 0.5rem 0; }}
.notes div {{ display: grid; grid-template-columns: 8.5rem 1fr; gap: 1rem; }}
.notes dt {{ font-weight: 600; }} .notes dd {{ margin: 0; }}
@media print {{
  body {{ font-size: 10pt; padding: 0; }}
  .facts, figure, .problems {{ border: 1px solid var(--faint); }}
  .wide, figure.large {{ overflow: visible; }} figure.large .chart {{ min-width: 0; }}
  .wide table {{ font-size: 7.5pt; }} .sortable td {{ white-space: normal; }} tr {{ break-inside: avoid; }}
  h2, h2 + p {{ break-after: avoid; }}
}}
{svg.STYLE}
"""
LONG = 40
"""Characters of a fact that gets a row of its own."""
SCRIPT = """
const number = (text) => parseFloat(text.replaceAll(",", "").replace("−", "-").replace("∞", "Infinity"));
const value = (row, column) => row.cells[column].textContent;
function sort(heading) {
  const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
  const order = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
  for (const each of heading.parentNode.cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
  body.append(...[...body.rows].sort((one, other) => {
    const a = number(value(one, column)), b = number(value(other, column));
    if (isNaN(a) && isNaN(b)) return -order * value(one, column).localeCompare(value(other, column));
    return isNaN(a) ? 1 : isNaN(b) ? -1 : order * (a - b);
  }));
}
for (const heading of document.querySelectorAll(".sortable th")) {
  heading.tabIndex = 0;
  heading.addEventListener("click", () => sort(heading));
  heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(heading); });
}
"""
"""Sorts a table by a column, from the largest and then from the smallest; what is no number stands below."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page itself allows a browser to load and run: nothing but its own style, and if it has one, its script."""


def page(report: Report) -> str:
    """The whole page."""
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        *_problems(report.problems),
        _pairs("facts", report.facts),
        *(part for section in report.sections for part in _section(section)),
    ]
    body = "\n".join(parts)
    policy, script = POLICY, ""
    if any(table.is_sortable for section in report.sections for table in section.tables):
        digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
        policy, script = f"{POLICY}; script-src 'sha256-{digest}'", f"<script>{SCRIPT}</script>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
{script}</body>
</html>
"""


def _section(section: Section) -> Iterator[str]:
    outside, heading = ("details", "summary") if section.is_appendix else ("section", "h2")
    yield f"<{outside}><{heading}>{escape(section.title)}</{heading}>"
    if section.text:
        yield f"<p>{escape(section.text)}</p>"
    if section.charts:
        yield '<div class="charts">' + "".join(map(_figure, section.charts)) + "</div>"
    yield from map(_table, section.tables)
    yield f"</{outside}>"


def _figure(picture: Picture) -> str:
    size = " class=large" if svg.is_large(picture) else ""
    return f"<figure{size}><figcaption>{escape(picture.title)}</figcaption>{svg.svg(picture)}</figure>"


def _table(table: Table) -> str:
    kinds = [" class=number" if table.is_numeric(number) else "" for number in range(len(table.header))]
    header = "".join(
        f'<th scope="col"{kind}>{escape(each)}</th>' for kind, each in zip(kinds, table.header, strict=True)
    )
    cells = ((f"<td{kind}>{escape(each)}</td>" for kind, each in zip(kinds, row, strict=True)) for row in table.rows)
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    notes = _pairs("notes", table.notes) if table.notes else ""
    sortable = ' class="sortable"' if table.is_sortable else ""
    return (
        f'<div class="wide"><table{sortable}><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>{notes}'
    )


def _pairs(kind: str, pairs: Sequence[tuple[str, str]]) -> str:
    inside = "".join(
        f"<div{' class=long' if len(value) > LONG else ''}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in pairs
    )
    return f'<dl class="{kind}">{inside}</dl>'


def _problems(problems: Sequence[str]) -> Iterator[str]:
    if problems:
        yield '<ul class="problems">' + "".join(f"<li>{escape(each)}</li>" for each in problems) + "</ul>"
