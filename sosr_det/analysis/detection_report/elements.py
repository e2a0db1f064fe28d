"""The bricks of the page: tables, figures, the frame. Every text is escaped here, or is ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sosr_det.analysis.detection_report.text import markup

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1f; --muted: #5d5d66; --back: #fff; --card: #f5f5f7; --line: #d9d9de; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececf0; --muted: #a5a5b0; --back: #17171a; --card: #232328; --line: #3a3a42; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
       max-width: 1180px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { max-width: 52rem; } .muted { color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
td.text, th.text { text-align: left; white-space: normal; overflow-wrap: anywhere; max-width: 24rem; }
tbody tr:hover { background: var(--card); } tr.sum td { font-weight: 600; border-top: 2px solid var(--line); }
.headline { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.headline div { background: var(--card); border-radius: 8px; padding: .6rem 1rem; }
.headline b { display: block; font-size: 1.35rem; } .headline span { color: var(--muted); font-size: .85rem; }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
figure { margin: 1rem 0; } figcaption { color: var(--muted); font-size: .88rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
            align-items: start; }
.pictures figure { margin: 0; } .pictures img { background: #18181b; }
details { background: var(--card); border-radius: 6px; padding: .3rem .8rem; margin: .3rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; } ul { margin: .3rem 0; padding-left: 1.2rem; }
li { overflow-wrap: anywhere; }
.note { border-left: 4px solid #d99a00; background: var(--card); padding: .4rem .9rem; margin: .8rem 0;
        overflow-wrap: anywhere; }
"""


_POLICY = "script-src 'none'; object-src 'none'; base-uri 'none'"


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; nothing in it runs, and nothing is fetched from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{markup(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def table(
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: Sequence[int] = (0,),
    last_is_sum: bool = False,
) -> str:
    """Cells are plain text; those of ``text_columns`` stand left, numbers right."""

    def row(cells: Sequence[str], tag: str, kind: str = "") -> str:
        kinds = [' class="text"' if i in text_columns else "" for i in range(len(cells))]
        written = (f"<{tag}{each}>{markup(cell)}</{tag}>" for each, cell in zip(kinds, cells, strict=True))
        return f"<tr{kind}>{''.join(written)}</tr>"

    rows = list(rows)
    body = [
        row(cells, "td", ' class="sum"' if last_is_sum and i == len(rows) - 1 else "")
        for i, cells in enumerate(rows)
    ]
    return (
        f'<div class="scroll"><table><thead>{row(heading, "th")}</thead><tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def picture(source: str, caption: str, alternative: str) -> str:
    """``source`` is a file name of ours, relative to the page."""
    return (
        f'<figure><a href="{markup(source)}"><img src="{markup(source)}" alt="{markup(alternative)}" loading="lazy">'
        f"</a><figcaption>{markup(caption, 400)}</figcaption></figure>"
    )


def headline(entries: Iterable[tuple[str, str]]) -> str:
    return (
        '<div class="headline">'
        + "".join(f"<div><b>{markup(value)}</b><span>{markup(what)}</span></div>" for value, what in entries)
        + "</div>"
    )


def note(text: str) -> str:
    return f'<p class="note">{markup(text, 600)}</p>'


def details(summary: str, items: Iterable[str]) -> str:
    listed = "".join(f"<li>{markup(item)}</li>" for item in items)
    return f"<details><summary>{markup(summary)}</summary><ul>{listed}</ul></details>"
