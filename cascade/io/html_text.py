"""Title and readable text of an HTML page.

A tokenizer after the HTML standard's, reduced to what text needs. It goes through the page once, so its time is linear
in the page's length; ``html.parser`` takes minutes for some 100 KB of unclosed tags.
"""

from __future__ import annotations

import html
import re

_TAG_NAME = re.compile(r"/?[A-Za-z][^\s/>]*")
_SPACE = re.compile(r"\s+")
_ATTRIBUTE_OR_END = re.compile(r"""=\s*["']|>""")
_DROPPED = frozenset({"script", "style"})
_CLOSING = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in (*_DROPPED, "title")}
_INLINE = re.compile(
    "/?(a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strike"
    "|strong|sub|sup|time|tt|u|var|wbr)"
)


def html_text(page: str) -> tuple[str, str]:
    r"""Title and text of ``page``: no tags, comments, scripts or styles, entities resolved, one line a block.

    >>> html_text("<title>A &amp; B</title><p>so<b>me</b> <i>text</i><script>x()</script><p>more")
    ('A & B', 'some text\nmore')
    """
    title, parts, position = "", [], 0
    while (start := page.find("<", position)) >= 0:
        parts.append(_SPACE.sub(" ", page[position:start]))
        if page.startswith("<!--", start):
            position = _after(page, "-->", start + 4)
        elif page.startswith(("<!", "<?"), start):
            position = _after(page, ">", start + 2)
        elif tag := _TAG_NAME.match(page, start + 1):
            position = _tag_end(page, tag.end())
            name = tag[0].lower()
            if name in _CLOSING:
                closing = _CLOSING[name].search(page, position)
                end = closing.start() if closing else len(page)
                if name == "title" and not title:
                    title = _plain(_SPACE.sub(" ", page[position:end]))
                position = end
            if not _INLINE.fullmatch(name):
                parts.append("\n")
        else:
            parts.append("<")
            position = start + 1
    parts.append(_SPACE.sub(" ", page[position:]))
    return title, _plain("".join(parts))


def _after(page: str, end: str, position: int) -> int:
    """The position behind ``end``, or the page's end, where an unclosed construct swallows the rest of the page."""
    found = page.find(end, position)
    return len(page) if found < 0 else found + len(end)


def _tag_end(page: str, position: int) -> int:
    """The position behind the ``>`` of a tag, which does not count inside quoted attribute values."""
    while match := _ATTRIBUTE_OR_END.search(page, position):
        if match[0] == ">":
            return match.end()
        position = _after(page, match[0][-1], match.end())
    return len(page)


def _plain(text: str) -> str:
    lines = (" ".join(line.split()) for line in html.unescape(text).split("\n"))
    return "\n".join(line for line in lines if line)
