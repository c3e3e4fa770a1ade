from html.parser import HTMLParser

import pytest

from pgvl_core.widgets import quiz

OPTIONS = [
    ("100", False, "that counts the frames <only>"),
    ("676", True, "100 + 576"),
    ("57600", False, "nothing is pooled"),
]


class Outline(HTMLParser):
    """Tags and texts in order, and a check that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], set(), []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert attrs == []  # no script, style or handler that a sanitiser would take out
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1], data))


def test_each_option_unfolds_to_its_verdict():
    page = Outline(quiz("How many tokens?", OPTIONS)._repr_html_())
    assert page.tags == {"div", "p", "b", "details", "summary"}
    assert page.texts == [
        ("b", "How many tokens?"),
        ("summary", "100"),
        ("b", "Not this one."),
        ("p", " that counts the frames <only>"),
        ("summary", "676"),
        ("b", "Right."),
        ("p", " 100 + 576"),
        ("summary", "57600"),
        ("b", "Not this one."),
        ("p", " nothing is pooled"),
    ]


def test_text_form_holds_the_same():
    lines = repr(quiz("How many tokens?", OPTIONS)).splitlines()
    assert lines[0] == "Quiz: How many tokens?"
    assert lines[3:5] == ["  B. 676", "     Right: 100 + 576"]


@pytest.mark.parametrize(("right", "count"), [((False, False), 0), ((True, True), 2)])
def test_quiz_needs_exactly_one_right_option(right, count):
    with pytest.raises(ValueError, match=f"exactly one right option, not {count}: 'Which\\?'"):
        quiz("Which?", [("a", right[0], ""), ("b", right[1], "")])


def test_quiz_needs_a_choice():
    with pytest.raises(ValueError, match="2 to 8 options, not 1"):
        quiz("Which?", [("a", True, "")])
