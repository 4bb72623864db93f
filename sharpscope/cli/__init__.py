"""The command line: each command checks its arguments, calls one function and prints what came of it."""

from sharpscope.cli import analyze, files, look, reproduce, train  # each adds its verbs to the group
from sharpscope.cli.group import main

__all__ = ["analyze", "files", "look", "main", "reproduce", "train"]
