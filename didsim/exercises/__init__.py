"""Checks of a reader's answers, for notebooks: right or wrong, and why.

verdicts    one answer against the right one, which stands beside it
keys        one answer against a key: a file that holds the right ones, so that a notebook does not

For exercises of your own, describe each as an `Exercise` (`Exercise.of_function` if it asks for code), and
write all of them with `write_key`. The notebook opens the key and calls it:

    check = open_key("my_lesson.key")
    check(1, answer)
"""

from didsim.exercises.keys import Exercise, Key, open_key, write_key
from didsim.exercises.verdicts import check

__all__ = ["Exercise", "Key", "check", "open_key", "write_key"]
