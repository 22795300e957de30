"""Text that others wrote, made fit for a terminal."""

from rich.text import Text


def visible(text: object) -> str:
    r"""Text in which control characters, and all others that do not print, are written as escapes.

    A terminal then shows them instead of obeying them. Line ends stay.

    Examples:
        >>> print(visible("\x1b[31mred"))
        \x1b[31mred
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in str(text)
    )


def literal(text: object, style: str = "") -> Text:
    """Visible text of which Rich takes no part, such as `[x]` or `:x:`, for markup."""
    return Text(visible(text), style)
