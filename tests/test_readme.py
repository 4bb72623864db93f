"""README.md and the pages of docs/ work as printed.

The Python blocks of a page run in order in one namespace, and its ``sharpscope`` commands between them, all in an empty
folder and in a process of their own where warnings are errors.  A block that cannot run says why in the line above it:
``<!-- not run: reason -->``.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PAGES = sorted((README.parent / "docs").glob("*.md"))
NEEDS = {"trainers": ("lightning", "transformers", "accelerate", "skorch")}  # packages of a page, which warn at will
SHELLS = {"console", "bash", "sh", "shell"}
TIMEOUT = 240  # seconds for all blocks together

# Runs the steps that come as JSON: a text is Python, a list is a command.  Lines keep their numbers in the README.
DRIVER = """
import json, os, subprocess, sys

readme, steps = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
for line, step in steps:
    print(f"{os.path.basename(readme)}:{line}", flush=True)
    if isinstance(step, str):
        exec(compile("\\n" * (line - 1) + step, readme, "exec"), namespace)
    elif code := subprocess.run(step, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"{os.path.basename(readme)}:{line}: {step[0].rpartition(os.sep)[2]} ended with exit code {code}")
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of its first line of text, its text, and why it is not run, if so."""

    language: str
    line: int
    text: str
    not_run: str | None


def blocks(text: str) -> list[Block]:
    """Every fenced block of a Markdown text in order."""
    found: list[Block] = []
    lines = text.splitlines()
    number, above = 0, ""
    while number < len(lines):
        fence = re.fullmatch(r"( *)(`{3,})\s*(\w*).*", lines[number])
        if fence is None:
            above = lines[number].strip() or above
            number += 1
            continue
        indent, ticks, language = fence.groups()
        start = number = number + 1
        while number < len(lines) and lines[number].strip() != ticks:
            number += 1
        assert number < len(lines), f"README.md:{start}: this block has no end"
        body = "\n".join(line.removeprefix(indent) for line in lines[start:number])
        reason = re.fullmatch(r"<!-- not run: (.+) -->", above)
        found.append(Block(language, start + 1, body, reason and reason[1]))
        number, above = number + 1, ""
    return found


def commands(block: Block) -> list[tuple[int, list[str]]]:
    """The ``sharpscope`` commands of a shell block with their lines; a console block marks commands with ``$``."""
    found = []
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        first = number
        text = lines[number]
        while text.endswith("\\") and number + 1 < len(lines):
            number += 1
            text = text[:-1] + lines[number]
        number += 1
        if block.language == "console" and not text.startswith("$ "):
            continue
        words = shlex.split(text.removeprefix("$ "), comments=True)
        if words[:1] == ["sharpscope"]:
            odd = {"|", "||", "&&", ";", ">", ">>", "<", "&"} & set(words)
            assert not odd, f"README.md:{block.line + first}: one plain command a line, without {' '.join(sorted(odd))}"
            found.append((block.line + first, words))
    return found


def steps(text: str, program: str) -> list[tuple[int, str | list[str]]]:
    """What is to be run, in order: Python texts and commands."""
    found: list[tuple[int, str | list[str]]] = []
    for block in blocks(text):
        if block.not_run:
            continue
        if block.language == "python":
            found.append((block.line, block.text))
        elif block.language in SHELLS:
            found.extend((line, [program, *words[1:]]) for line, words in commands(block))
    return found


def run(
    found: list[tuple[int, str | list[str]]], folder: Path, readme: Path, lenient: bool = False
) -> subprocess.CompletedProcess[str]:
    # pyplot warns when a script shows a picture without a screen; a reader has one
    strict = ["-W", "error", "-W", "ignore:FigureCanvasAgg is non-interactive:UserWarning"]
    strict = ["-W", "default"] if lenient else strict
    return subprocess.run(
        [sys.executable, *strict, "-c", DRIVER],
        input=json.dumps([str(readme), found]),
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_the_readme_runs(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("sharpscope")
    found = steps(text, str(program))
    assert any(isinstance(step, str) for _, step in found), "README.md shows no Python that is run"
    assert program.exists() or all(isinstance(step, str) for _, step in found), (
        "this Python has no program sharpscope; install the package: pip install -e '.[dev]'"
    )
    done = run(found, tmp_path, README)
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    needs = NEEDS.get(page.stem, ())
    for package in needs:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'sharpscope[dev]'")
    found = steps(page.read_text(encoding="utf-8"), str(Path(sys.executable).with_name("sharpscope")))
    assert any(isinstance(step, str) for _, step in found), f"{page.name} shows no Python that is run"
    done = run(found, tmp_path, page, lenient=bool(needs))
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"


def test_the_pieces_to_copy_are_short() -> None:
    """At most 20 lines each, decorator and signature counted."""
    text = (README.parent / "docs" / "write_your_own.md").read_text(encoding="utf-8")
    nodes = [node for _, step in steps(text, "S") if isinstance(step, str) for node in ast.parse(step).body]
    lengths = {n.name: (n.end_lineno or 0) - n.lineno + 2 for n in nodes if isinstance(n, ast.ClassDef)}
    assert len(lengths) >= 6 and max(lengths.values()) <= 20, lengths


SAMPLE = """# Title
```python
x = 1
```
words

<!-- not run: needs a GPU -->

```python
x = 1 / 0
```

1. a list
   ```python
   if x:
       y = x + 1
   ```

```console
$ pip install sharpscope
$ sharpscope train --rule "sam(rho=0.1)" \\
      --out RUN   # a comment
printed
```
```bash
make demo
sharpscope show RUN
```
```text
$ sharpscope never
```
"""


def test_blocks_are_found() -> None:
    assert steps(SAMPLE, "S") == [
        (3, "x = 1"),
        (15, "if x:\n    y = x + 1"),
        (21, ["S", "train", "--rule", "sam(rho=0.1)", "--out", "RUN"]),
        (27, ["S", "show", "RUN"]),
    ]
    assert [block.not_run for block in blocks(SAMPLE)].count("needs a GPU") == 1


def test_a_pipe_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"README\.md:2: one plain command a line, without \|"):
        steps("```bash\nsharpscope show RUN | head\n```\n", "S")


def test_an_open_block_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"README\.md:2: this block has no end"):
        steps("words\n```bash\nsharpscope show RUN\n", "S")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n```\n\n```python\n\ny = x / 0\n```\n", "line 7, in <module>"),
        ("```python\nimport warnings\nwarnings.warn('old', DeprecationWarning)\n```\n", "DeprecationWarning: old"),
        ("```bash\nsharpscope -c 'raise SystemExit(3)'\n```\n", "README.md:2: S ended with exit code 3"),
    ],
    ids=["error", "warning", "command"],
)
def test_a_wrong_block_fails(tmp_path: Path, text: str, message: str) -> None:
    program = tmp_path / "S"
    program.symlink_to(sys.executable)
    done = run(steps(text, str(program)), tmp_path, README)
    assert done.returncode != 0
    assert message in done.stderr


def test_blocks_share_names_and_folder(tmp_path: Path) -> None:
    text = """
```python
import pathlib
path = pathlib.Path("a")
```
```bash
sharpscope -c "open('a', 'w').write('here')"
```
```python
assert path.read_text() == "here"
```
"""
    program = tmp_path / "S"
    program.symlink_to(sys.executable)
    done = run(steps(text, str(program)), tmp_path, README)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_text() == "here"
