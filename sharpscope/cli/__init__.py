"""The command line: each command checks its arguments, calls one function and prints what came of it.

Enters: words. Leaves: words, files, an exit code; no traceback for a user's mistake. The demo lives here. Never
imported by any other room.

Public: none; ``sharpscope --help`` lists the commands.
"""

from sharpscope.cli import analyze, files, look, reproduce, train  # each adds its verbs to the group
from sharpscope.cli.group import main

__all__ = ["analyze", "files", "look", "main", "reproduce", "train"]
