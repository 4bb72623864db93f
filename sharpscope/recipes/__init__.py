"""Both papers as recipes: every table and figure, at laptop scale and at paper scale.

A new recipe is one TOML file here.
"""

from __future__ import annotations

from sharpscope.recipes.plan import Cell, plan
from sharpscope.recipes.read import Recipe, RecipeError, names, read, text
from sharpscope.recipes.reproduce import Task, report, reproduce

__all__ = ["Cell", "Recipe", "RecipeError", "Task", "names", "plan", "read", "report", "reproduce", "text"]
