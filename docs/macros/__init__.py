"""What pages ask of the library and of its data while the site is built: tables, boxes and lists.

A page calls a macro in double braces. Each file here makes one kind of thing.
"""

from typing import Any

from docs.macros.command_line import command_line
from docs.macros.gallery import gallery
from docs.macros.lessons import lessons
from docs.macros.objectives import objective_table, zoo_table
from docs.macros.studies import study_keys, study_names
from docs.macros.theory import check, check_command, not_held


def define_env(env: Any) -> None:
    """Give the macros to mkdocs-macros."""
    for macro in (
        check,
        check_command,
        command_line,
        gallery,
        lessons,
        not_held,
        objective_table,
        study_keys,
        study_names,
        zoo_table,
    ):
        env.macro(macro)
