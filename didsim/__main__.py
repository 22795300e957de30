"""`python -m didsim` is the command `didsim`."""

import sys


def main() -> None:
    """Run the command. Ctrl-C while it is imported has the exit status of Ctrl-C at any other time."""
    try:
        from didsim.cli import app
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        sys.exit(130)
    app(prog_name="didsim")


if __name__ == "__main__":
    main()
