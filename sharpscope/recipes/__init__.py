"""Both papers as recipes: every table and figure, at laptop scale and at paper scale.

Enters: a recipe (one TOML file here, such as ``ssam-table7.toml``) and a scale. Leaves: runs, tables, figures,
verdicts. A new recipe is one TOML file. Never imports the command line.

Public: none; ``sharpscope reproduce`` calls it.
"""

from __future__ import annotations

from sharpscope.recipes.plan import Cell, plan
from sharpscope.recipes.read import Recipe, RecipeError, names, read, text
from sharpscope.recipes.reproduce import Task, report, reproduce

__all__ = ["Cell", "Recipe", "RecipeError", "Task", "names", "plan", "read", "report", "reproduce", "text"]
