"""Whatever text comes in, the page's HTML holds it as text: parsed by an independent parser, no tag of it is left."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from sae_tools.reports.render import chip, escape, number, share, strip, visible

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</span></div><h1>x",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "<svg/onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<b>bold</b><br>",
    "${alert(1)}",
    "{{constructor.constructor('alert(1)')()}}",
    "`${alert(1)}`",
    "&lt;b&gt; &amp; &#60;",
    "<!--",
    "--><img>",
    "]]>",
    "<style>*{display:none}</style>",
    "<iframe srcdoc='<b>'>",
    "\\u003cimg\\u003e",
    "C:\\users\\x",
    "<bdi>",
    "</bdi><i>",
    "<details open ontoggle=alert(1)>",
    "%3Cimg%3E",
    "<\nimg\nsrc=x>",
]
OURS = {"div", "span", "bdi", "i"}


class Reader(HTMLParser):
    """Collects the tags and the text that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.marks = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    for markup in (visible(text), chip(text), strip([text, "b"], [1.0, 0.0], 2.0)):
        reader = parsed(markup)
        assert set(reader.tags) <= OURS
        assert reader.attributes <= {"class", "style", "title", "dir"}
    assert parsed(visible(text)).text == text
    assert parsed(f'<i title="{escape(text)}"></i>').attributes == {"title"}


@pytest.mark.parametrize("text", ["👨‍👩‍👧 family", "שלום world", "e\u0301", "日本語", "tab\there"])
def test_tokens_joined_are_the_text(text: str) -> None:
    pieces = [text[:2], "", text[2:]]
    assert parsed(strip(pieces, [0.0, 1.0, 0.0], 1.0)).text == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\u202eb", "aU+202Eb"), ("a\0b", "a\u2400b"), ("\u200b", "U+200B"), ("\x7f", "U+007F"), ("\ud800", "?")],
)
def test_characters_that_act_are_spelled_out(text: str, shown: str) -> None:
    assert parsed(visible(text)).text == shown


def test_the_part_of_a_character_lends_its_value_to_the_whole() -> None:
    assert strip(["", "é"], [3.0, 1.0], 4.0).count("--heat:0.75") == 1


def test_numbers() -> None:
    assert [number(v) for v in (0, 5.4321, 0.812345, 12345.6, 100.0)] == ["0", "5.43", "0.812", "12,346", "100"]
    assert [share(v) for v in (0, 0.00001, 0.0042, 0.063, 0.5)] == ["0%", "<0.01%", "0.42%", "6.3%", "50%"]
