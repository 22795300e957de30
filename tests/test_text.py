from didsim._text import literal, visible


def test_what_does_not_print_is_an_escape() -> None:
    text = "a\x1b[2Jb\rc\x07d\u202ee\x9bf\tg\udc80"
    assert visible(text) == r"a\x1b[2Jb\rc\x07d\u202ee\x9bf\tg\udc80"
    assert visible("naïve β\nline two") == "naïve β\nline two"
    assert visible(ValueError("[x]")) == "[x]"


def test_literal_text_has_no_markup() -> None:
    assert literal("[red]x[/] :smile: \x1b[31m", "dim").plain == r"[red]x[/] :smile: \x1b[31m"
