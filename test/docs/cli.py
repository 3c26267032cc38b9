#!/usr/bin/python3
"""Writes docs/reference/cli.md from the help of `lighter`, or compares it.

    cli.py LIGHTER [--check]
"""

import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/reference/cli.md"
HEAD = """# Commands of lighter

`lighter` is the tool of a node. It is beside the shim in a release, and `make install` installs it.
Exit statuses are in [exit codes and errors](exit-codes.md#exit-statuses-of-lighter).

This page is made by `make docs` from the program's own help.
"""


def texts(lighter, words=()):
    """The help of a command and of those below it."""
    shown = subprocess.run([lighter, *words, "--help"], capture_output=True, text=True, check=True).stdout
    yield " ".join(["lighter", *words]), shown
    commands = re.search(r"^Commands:\n(.*?)\n\n", shown, flags=re.M | re.S)
    for name in re.findall(r"^  (\w+)", commands[1], flags=re.M) if commands else []:
        if name != "help":
            yield from texts(lighter, (*words, name))


made = HEAD
for title, text in texts(sys.argv[1]):
    made += f"\n## {title}\n\n```text\n{text.strip()}\n```\n"
if "--check" not in sys.argv:
    PAGE.write_text(made)
elif PAGE.read_text() != made:
    sys.exit(f"{PAGE.name} is not what `lighter --help` says: run `make docs`")
