"""Campaigns against the store: real processes killed, system calls that fail, files that were changed.

    python -m tests.store.campaigns FOLDER NAME=COUNT ...

runs some of them in a process with one thread, which forks the processes that it kills, and prints what was seen as
JSON.  ``tests/store/test_store_torture.py`` runs short ones, ``make torture`` long ones.  A promise that does not hold
ends a campaign with an AssertionError.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpscope.core.history import History, Steps
from sharpscope.runs.analyze import Analysis, analyze_run
from sharpscope.runs.train import Experiment, train_run
from sharpscope.store import Run, StoreError, create_run, is_run, open_run, pack_run, unpack_run, verify_run
from sharpscope.store._nodes import digest
from sharpscope.store._tree import encode
from sharpscope.training.loop import Settings
from sharpscope.training.loop import _optimizer as optimizer

Say = Callable[[str], object]
QUICK = Experiment(Settings("ssam_d(0.1)", epochs=3, batch_size=32), train=96, test=32)
LIGHT = Analysis(examples=64, k=2, tol=0.05, resolution=7, progress=False)


# ---------------------------------------------------------------------------------------------------- processes


def forked(work: Callable[[Say], object]) -> tuple[int, int]:
    """A child that works and tells lines through a pipe, the last of them "done" or "error ..."; its id, the pipe."""
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)

    def say(text: str) -> None:
        os.write(writing, text.replace("\n", " ").encode() + b"\n")

    try:
        if sys.platform == "linux":  # die with the parent, whatever it dies of
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        assert os.getppid() == parent
        say("go")
        work(say)
        say("done")
    except BaseException as error:
        say(f"error {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def told(pid: int, reading: int) -> list[str]:
    """Every line of a child, which has ended or will."""
    with open(reading, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    _, status = os.waitpid(pid, 0)
    return lines if status in (0, signal.SIGKILL) else [*lines, f"crash {status}"]


def killed(work: Callable[[Say], object], after: float, start: str = "go") -> list[str]:
    """The lines that a child told before it was killed, ``after`` seconds past the line ``start``."""
    pid, reading = forked(work)
    line = b""
    while line != start.encode() + b"\n":
        line = (b"" if line.endswith(b"\n") else line) + os.read(reading, 1)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    lines = told(pid, reading)
    assert not [line for line in lines if line.startswith(("error", "crash"))], lines
    return lines


def whole(work: Callable[[Say], object]) -> float:
    """Let a child work to its end; seconds."""
    began = time.perf_counter()
    lines = told(*forked(work))
    assert lines[-1] == "done", lines
    return time.perf_counter() - began


@contextmanager
def writes_told(say: Say) -> Iterator[None]:
    """Tell every part that has been written, with how far it goes."""
    write = Run._write

    def telling(run: Run, name: str, tree: dict[Any, Any], attributes: dict[str, Any], replace: bool) -> None:
        write(run, name, tree, attributes, replace)
        far = {"history": lambda: len(tree["train_loss"]), "steps": lambda: int(tree["step"][-1])}
        say(json.dumps([name, far.get(name.split("/")[0], lambda: 0)()]))

    Run._write = telling  # type: ignore[method-assign]
    yield


# ---------------------------------------------------------------------------------------------------- comparisons


def curves(result: History | Steps | None) -> dict[str, np.ndarray]:
    """All curves but the wall time, which no second run repeats."""
    assert result is not None
    found = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray) and name != "seconds"}


def checkpoint_digest(run: Run) -> str:
    tree = run.checkpoint()
    tree["curves"] = {name: value for name, value in tree["curves"].items() if name != "seconds"}
    return digest(encode(tree))


def assert_prefix(part: History | Steps | None, of: History | Steps | None) -> None:
    if part is not None:
        for name, values in curves(part).items():
            assert np.array_equal(values, curves(of)[name][: len(values)]), name


def assert_same_training(run: Run, reference: Run) -> None:
    assert run.checkpoints() == reference.checkpoints()
    assert checkpoint_digest(run) == checkpoint_digest(reference)
    assert run.mask_steps() == reference.mask_steps()
    for step in run.mask_steps():
        assert digest(encode(run.masks(step))) == digest(encode(reference.masks(step)))
    for mine, theirs in ((run.history, reference.history), (run.steps, reference.steps)):
        assert len(curves(mine)["passes"]) == len(curves(theirs)["passes"])  # type: ignore[arg-type]
        assert_prefix(mine, theirs)  # type: ignore[arg-type]


def assert_sound(path: Path) -> Run:
    assert verify_run(path) == []
    return open_run(path)


# ---------------------------------------------------------------------------------------------------- kill -9


def train_to_end(path: Path) -> Callable[[Say], object]:
    def work(say: Say) -> None:
        with writes_told(say):
            train_run(QUICK, path, resume=True, keep_checkpoints=2, progress=False)

    return work


def kill_training(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    seconds = whole(train_to_end(folder / "reference"))
    reference, kills, victims = open_run(folder / "reference"), 0, 0
    while kills < count:
        path, victims = folder / f"victim{victims}", victims + 1
        while kills < count:
            lines = killed(train_to_end(path), rng.uniform(0, 1.1 * seconds))
            if "done" in lines:
                break
            kills += 1
            _check_training(path, [json.loads(line) for line in lines], reference)
        whole(train_to_end(path))
        assert_same_training(open_run(path), reference)
        shutil.rmtree(path)
    return {"kills": kills, "runs resumed to the end, bit for bit": victims}


def _check_training(path: Path, committed: list[tuple[str, int]], reference: Run) -> None:
    """What a killed training said that it had written is there, and is what the unbroken one has."""
    if not is_run(path):
        assert committed == []
        return
    run = assert_sound(path)
    assert_prefix(run.history, reference.history)  # type: ignore[arg-type]
    assert_prefix(run.steps, reference.steps)
    for name, far in committed:
        drawer, _, number = name.partition("/")
        if drawer == "history":
            assert len(curves(run.history)["passes"]) >= far  # type: ignore[arg-type]
        elif drawer == "steps":
            assert run.steps is not None and run.steps.step[-1] >= far
        elif drawer == "checkpoints":
            assert run.checkpoints()[-1] >= int(number)
        else:
            assert int(number) in run.mask_steps()


def kill_analysis(name: str) -> Callable[[int, Path, np.random.Generator], dict[str, Any]]:
    def campaign(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
        def work(path: Path) -> Callable[[Say], object]:
            return lambda say: analyze_run(open_run(path), [name], LIGHT)

        whole(train_to_end(folder / "trained"))
        shutil.copytree(folder / "trained", folder / "reference")
        seconds = whole(work(folder / "reference"))
        reference, kills, finished = open_run(folder / "reference").results[name], 0, 0
        path = folder / "victim"
        shutil.copytree(folder / "trained", path)
        while kills < count:
            kills += "done" not in killed(work(path), rng.uniform(0, 1.1 * seconds))
            run = assert_sound(path)
            if name in run.result_names() or kills == count:
                whole(work(path))
                assert run.results[name] == reference
                finished += 1
                shutil.rmtree(path)
                shutil.copytree(folder / "trained", path)
        return {"kills": kills, "identical results": finished}

    return campaign


def kill_pack(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    run = synthetic_run(folder / "run", checkpoints=4, size=300_000)
    packed, copy = folder / "run.h5", folder / "copy"
    tasks: list[tuple[Path, Callable[[Say], object]]] = [
        (packed, lambda say: pack_run(open_run(run.path), packed, replace=True)),
        (copy, lambda say: unpack_run(open_run(folder / "whole.h5"), copy)),
    ]
    pack_run(run, folder / "whole.h5")
    seconds, kills, there = whole(tasks[0][1]), 0, 0
    for turn in range(100 * count):
        target, work = tasks[turn % 2]
        shutil.rmtree(copy, ignore_errors=True)
        packed.unlink(missing_ok=True)
        if turn % 4:
            shutil.copy(folder / "whole.h5", packed)
        kills += "done" not in killed(work, rng.uniform(0, 1.5 * seconds))
        if target.exists():
            assert assert_sound(target).digest == run.digest
            there += 1
        if kills == count:
            break
    assert assert_sound(run.path).digest == run.digest
    whole(tasks[0][1])
    left = [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]
    assert left == [], left  # the next one sweeps what the killed ones left
    return {"kills": kills, "whole files or none": there}


def kill_prune(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    synthetic_run(folder / "run", checkpoints=40, size=10)

    def work(path: Path) -> Callable[[Say], object]:
        def pruning(say: Say) -> None:
            run = open_run(path)
            with run.lock():
                began = time.perf_counter()
                say("pruning")
                run.prune(keep=2)
                say(str(time.perf_counter() - began))

        return pruning

    path, steps = folder / "victim", open_run(folder / "run").checkpoints()
    shutil.copytree(folder / "run", path)
    seconds, kills, partly = float(told(*forked(work(path)))[-2]), 0, 0
    while kills < count:
        shutil.rmtree(path)
        shutil.copytree(folder / "run", path)
        kills += "done" not in killed(work(path), rng.uniform(0, seconds), "pruning")
        left = assert_sound(path).checkpoints()
        assert len(left) >= 2 and left == steps[-len(left) :]
        partly += 2 < len(left) < len(steps)
        whole(work(path))
        assert open_run(path).checkpoints() == steps[-2:]
    return {"kills": kills, "in the middle of pruning": partly}


# ---------------------------------------------------------------------------------------------------- readers


def made_history(done: int) -> History:
    curve = np.arange(1.0, done + 1)
    return History("sgd()", 10**6, 10, 100, curve, 2 * curve, curve / 1e6, 0 * curve, 3 * curve, 4 * curve)


def synthetic_run(path: Path, checkpoints: int, size: int) -> Run:
    run = create_run(path, {"rule": "sgd()"}, {"seed": 0})
    for step in range(1, checkpoints + 1):
        run.add_checkpoint(step, {"model": {"w": torch.full((size,), float(step))}, "step": step})
        run.add_masks(step, {"w": torch.arange(200) % (step + 1) == 0})
    run.set_history(made_history(checkpoints))
    run.add_result("curve", made_history(2))
    run.create_child("child", {}).add_result("curve", made_history(3))
    return run


def readers(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """A reader opens a run anew while its writer adds, replaces, merges and prunes as fast as it can."""
    run = create_run(folder / "run", {})

    def write(say: Say) -> None:
        with run.lock(), run.step_writer(seconds=0.0) as points:
            for step in range(1, 10**6):
                points.add(step, float(step), 2.0 * step, 3.0 * step)
                if step % 7 == 0:
                    points.merge()
                run.add_masks(step % 20, {"w": torch.full((50,), bool(step % 2))}, replace=True)
                run.add_checkpoint(step, {"model": {"w": torch.full((20_000,), float(step))}, "step": step})
                run.set_history(made_history(step))
                run.prune(keep=1 + step % 2)

    pid, reading = forked(write)
    seen: set[int] = set()
    last = 0
    try:
        while run.history is None:
            time.sleep(0.01)
        for _ in range(count):
            opened = open_run(run.path)
            checkpoint, steps, history = opened.checkpoint(), opened.steps, opened.history
            assert (checkpoint["model"]["w"] == checkpoint["step"]).all()
            assert isinstance(history, History) and history == made_history(len(history.passes))
            assert steps is not None and steps.step[-1] >= last
            assert np.array_equal(steps.step, np.arange(1, len(steps.step) + 1))
            assert np.array_equal(steps.loss, steps.step) and np.array_equal(steps.passes, 3.0 * steps.step)
            assert set(opened.masks()) == {"w"} and opened.tree() and opened.digest and opened.status
            last = int(steps.step[-1])
            seen.add(last)
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the writer ended"
    finally:
        os.kill(pid, signal.SIGKILL)
        told(pid, reading)
    return {"opened": count, "states seen": len(seen)}


# ---------------------------------------------------------------------------------------------------- mutations


def everything(path: Path) -> dict[str, str]:
    """Digest of every value and attribute of a run, part by part; of damaged parts their error."""
    run = open_run(path)
    found: dict[str, str] = {}
    for name, _, _ in run.tree():
        *children, own = name.split("/") if "/" not in name or name.split("/")[0] not in run.children() else (
            name.split("/")[0], name.partition("/")[2]
        )  # fmt: skip
        owner = run.child(children[0]) if children and children[0] in run.children() else run
        try:
            tree, attributes = owner._read(own if owner is not run else name)
            found[name] = digest(encode([tree, attributes]))
        except StoreError as error:
            found[name] = f"error {error}"
    return found


def mutations(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Bits, bytes, ends, stretches and whole parts changed; each file read in a child."""
    run = synthetic_run(folder / "run", checkpoints=2, size=3000)
    other = synthetic_run(folder / "other", checkpoints=2, size=3000)
    packed = pack_run(run, folder / "run.h5")
    expected, parts = everything(run.path), sorted(run.path.rglob("*.h5"))
    assert everything(packed) == expected
    outcome = {"refused, by name": 0, "unchanged values": 0, "crashes of the child": 0}
    for turn in range(count):
        target = packed if turn % 3 == 0 else parts[rng.integers(len(parts))]
        original = target.read_bytes()
        if turn % 10 == 9 and target != packed:  # another part under this name, of this run or of another
            thief = [path for path in (*parts, *other.path.rglob("*.h5")) if path != target]
            content = thief[rng.integers(len(thief))].read_bytes()
        else:
            content = mutated(original, rng, turn % 4)
        target.write_bytes(content)

        def look(say: Say, path: Path = packed if target == packed else run.path) -> None:
            try:
                found = everything(path)
            except StoreError as error:
                found = dict.fromkeys(expected, f"error {error}")
            bad = {name: text for name, text in found.items() if text != expected[name]}
            missing = set(expected) - set(found)
            assert all(text.startswith("error ") and ": got " in text for text in bad.values()), bad
            # a child whose run.h5 or folder is gone is not listed; nothing else may vanish
            assert all(name.startswith("child/") for name in missing), missing
            say("refused" if bad or missing else "same")

        lines = told(*forked(look))
        target.write_bytes(original)
        assert not any(line.startswith("error") for line in lines), lines
        if any(line.startswith("crash") for line in lines):
            outcome["crashes of the child"] += 1
        else:
            outcome["refused, by name" if "refused" in lines else "unchanged values"] += 1
    return {"files": count, **outcome}


def mutated(original: bytes, rng: np.random.Generator, kind: int) -> bytes:
    data = bytearray(original)
    if kind == 0:  # one bit, anywhere
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == 1:  # some bytes of the first pages, where the structure is
        for place in rng.integers(0, min(len(data), 8192), rng.integers(1, 6)):
            data[place] = int(rng.integers(256))
    elif kind == 2:  # the end is missing
        del data[rng.integers(len(data)) :]
    else:  # a stretch of zeros, ones or of another place
        start, length, source = int(rng.integers(len(data))), int(rng.integers(1, 600)), int(rng.integers(len(data)))
        filler = [bytes(length), b"\xff" * length, bytes(original[source : source + length])][rng.integers(3)]
        data[start : start + length] = filler[: max(0, len(data) - start)]
    return bytes(data)


# ---------------------------------------------------------------------------------------------------- faults

CALLS = {
    "pwrite64": ["ENOSPC", "EIO"],
    "fsync": ["EIO"],
    "link": ["ENOSPC"],
    "rename": ["ENOSPC", "EIO"],
    "ftruncate": ["ENOSPC"],
    "openat": ["ENOSPC", "EMFILE"],
    "mkdir": ["ENOSPC"],
    "unlink": ["EIO"],
    "close": ["EIO"],
    "flock": ["ENOLCK"],
    "pread64": ["EIO"],
    "preadv": ["EIO"],
}


OPERATIONS = ("checkpoint", "history", "steps", "prune", "child", "pack", "unpack", "create")


def strace() -> str | None:
    """The program, where it may trace."""
    program = shutil.which("strace")
    return program if program and subprocess.run([program, "true"], capture_output=True).returncode == 0 else None


def operations(path: Path) -> dict[str, Callable[[], object]]:
    """Everything that writes, on a run that is there."""

    def steps(run: Run) -> None:
        with run.step_writer(seconds=0.0) as points:
            for step in range(1, 4):
                points.add(step, 1.0, 1.0, 1.0)
            points.merge()

    def locked(work: Callable[[Run], object]) -> Callable[[], object]:
        def call() -> None:
            run = open_run(path)
            with run.lock():
                work(run)

        return call

    packed, copy = path.with_suffix(".h5"), path.with_name("copy")
    return {
        "checkpoint": locked(lambda run: run.add_checkpoint(9, {"w": torch.ones(5)})),
        "history": locked(lambda run: run.set_history(made_history(9))),
        "steps": locked(steps),
        "prune": locked(lambda run: run.prune()),
        "child": locked(lambda run: run.create_child("new", {})),
        "pack": lambda: pack_run(open_run(path), packed, replace=True),
        "unpack": lambda: unpack_run(open_run(packed), copy),
        "create": lambda: create_run(path.with_name("created"), {}),
    }


def faults_of(name: str) -> Callable[[int, Path, np.random.Generator], dict[str, Any]]:
    """Each system call of an operation fails in turn (every ``count``-th one); strace injects the error."""

    def campaign(count: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
        program = strace()
        assert program, "strace cannot trace here"
        synthetic_run(folder / "template", checkpoints=2, size=50)
        work = folder / "work"
        shutil.copytree(folder / "template", work / "run")
        for operation in operations(work / "run").values():  # what is imported only once must not meet a fault
            operation()
        injected, refused = 0, 0
        for call, errors in CALLS.items():
            for error in errors:
                turn = 1 + int(rng.integers(count))
                while True:
                    shutil.rmtree(work, ignore_errors=True)
                    shutil.copytree(folder / "template", work / "run")
                    if name == "unpack":
                        pack_run(open_run(work / "run"), work / "run.h5")
                    fault = f"{call}:error={error}:when={turn}"
                    hit, said = _with_fault(program, operations(work / "run")[name], fault, folder)
                    if not hit:
                        break
                    injected, refused = injected + 1, refused + (said != "done")
                    context = f"{name} with {call} = {error} at {turn}: {said}"
                    assert said == "done" or said.startswith(("error StoreError: ", "error MissingPart: ")), context
                    assert said == "done" or ": got " in said, context
                    for path in (work / "run", work / "run.h5", work / "copy", work / "created"):
                        if is_run(path):
                            assert verify_run(path) == [], context
                    turn += count
        return {"faults": injected, "refused, in one sentence": refused, "half parts": 0}

    return campaign


def _with_fault(program: str, operation: Callable[[], object], fault: str, folder: Path) -> tuple[bool, str]:
    """Whether the fault was met, and how the operation ended."""
    ready, release = os.pipe()

    def work(say: Say) -> None:
        os.read(ready, 1)
        operation()

    pid, reading = forked(work)
    log = folder / "strace.log"
    call = fault.partition(":")[0]
    command = [program, "-f", "-p", str(pid), "-e", f"trace={call}", "-e", f"inject={fault}", "-o", str(log)]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
        assert tracer.poll() is None, "strace cannot attach"
        time.sleep(0.001)
    os.write(release, b"x")
    lines = told(pid, reading)
    tracer.wait()
    os.close(ready)
    os.close(release)
    return "INJECTED" in log.read_text(), lines[-1]


CAMPAIGNS: dict[str, Callable[[int, Path, np.random.Generator], dict[str, Any]]] = {
    "training": kill_training,
    "surface": kill_analysis("surface"),
    "spectrum": kill_analysis("spectrum"),
    "pack": kill_pack,
    "prune": kill_prune,
    "readers": readers,
    "mutations": mutations,
    **{f"faults-{name}": faults_of(name) for name in OPERATIONS},
}


def main(folder: str, *asked: str) -> None:
    torch.set_num_threads(1)
    images = QUICK.images()  # imports what every child would otherwise import for itself
    optimizer(QUICK.network(images), images, QUICK.settings, 1)
    for words in asked:
        name, _, count = words.partition("=")
        place = Path(folder) / name
        place.mkdir(parents=True)
        began = time.perf_counter()
        found = CAMPAIGNS[name](int(count), place, np.random.default_rng(0))
        print(json.dumps({"campaign": name, **found, "seconds": round(time.perf_counter() - began, 1)}), flush=True)


def run_campaigns(folder: Path, counts: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Campaigns in a process of their own; raises AssertionError with its output where a promise does not hold."""
    root = Path(__file__).parents[2]
    asked = [f"{name}={count}" for name, count in counts.items()]
    command = [sys.executable, "-m", "tests.store.campaigns", str(folder), *asked]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return {row.pop("campaign"): row for row in map(json.loads, done.stdout.splitlines())}


if __name__ == "__main__":
    main(*sys.argv[1:])
