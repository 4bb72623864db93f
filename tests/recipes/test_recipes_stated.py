"""The recipes at paper scale are what the papers state."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from sharpscope import models, recipes
from sharpscope.ascent.batch import Batch
from sharpscope.ascent.perturbations import Ball, Masked
from sharpscope.core.expressions import Piece
from sharpscope.optimizers.parse import parse
from sharpscope.optimizers.sharpness_aware import SharpnessAware
from sharpscope.recipes.numbers import FLOPS, expected_extra, flops
from sharpscope.recipes.plan import selected
from sharpscope.recipes.read import SCALES
from sharpscope.recipes.verdicts import matching
from tests.recipes import stated

PAPERS = {"ssam": (9, 5), "rst": (14, 9)}  # tables, figures


@functools.cache
def cells(name: str) -> list[recipes.Cell]:
    return recipes.plan(recipes.read(name), "paper", seeds=1)


def radius(piece: Piece) -> float | None:
    """The rho of a rule, through whatever wraps it."""
    if isinstance(piece, Ball):
        return float(piece.rho)  # type: ignore[arg-type]
    for name in ("rule", "perturbation"):
        inner = getattr(piece, name, None)
        if isinstance(inner, Piece) and (found := radius(inner)) is not None:
            return found
    return None


def test_every_table_and_figure_is_there() -> None:
    wanted = {f"{paper}-table{n}" for paper, (tables, _) in PAPERS.items() for n in range(1, tables + 1)}
    wanted |= {f"{paper}-figure{n}" for paper, (_, figures) in PAPERS.items() for n in range(1, figures + 1)}
    assert set(recipes.names()) == wanted
    for name in wanted:
        number = re.sub(r"\D", "", name)
        assert recipes.read(name).item == f"{'Table' if 'table' in name else 'Figure'} {number}"


@pytest.mark.parametrize("name", stated.SSAM)
def test_ssam(name: str) -> None:
    found = cells(name)
    wanted = stated.SSAM[name]
    assert {(c.experiment.model, c.experiment.data) for c in found} == {(model, data) for model, data, _ in wanted}
    radii = {(model, data): rho for model, data, rho in wanted}
    for cell in found:
        own, of = cell.experiment.settings, cell.experiment.data
        for setting, value in (stated.SSAM_IMAGENET if of == "imagenet" else stated.SSAM_CIFAR).items():
            assert getattr(own, setting) == value, (name, cell.row.name, setting)
        plain, climbing = stated.DECAY["ssam-imagenet" if of == "imagenet" else "ssam-cifar"]
        assert own.weight_decay == (plain if cell.row.name == "SGD" else climbing)
        assert (own.cutout > 0) == (of != "imagenet")
        rho, expected = radius(parse(own.rule)), radii[cell.experiment.model, of]
        assert rho is None if cell.row.name == "SGD" else expected is None or rho == expected


@pytest.mark.parametrize("name", stated.RST)
def test_rst(name: str) -> None:
    found = cells(name)
    assert {(c.experiment.model, c.experiment.data) for c in found} == stated.RST[name]
    for cell in found:
        own, model = cell.experiment.settings, cell.experiment.model
        wanted = dict(stated.RST_VIT if "vit" in model else stated.RST_CIFAR)
        wanted = stated.RST_IMAGENET if cell.experiment.data == "imagenet" else wanted
        if "pyramidnet" in model:
            wanted["weight_decay"] = 5e-4  # Table 16
        if name == "rst-table12":
            wanted["epochs"] = 300  # its caption
        for setting, value in wanted.items():
            assert getattr(own, setting) == value, (name, cell.row.name, setting)
        assert (own.cutout > 0) == (name in {"rst-table7", "rst-table8", "rst-table9", "rst-table10"})
        assert (own.mixup > 0) == ("vit" in model and name != "rst-table12")
        rho = radius(parse(own.rule))
        if rho is not None and not cell.row.name.startswith("ASAM"):
            assert rho == (0.05 if cell.experiment.data == "imagenet" else 0.1)


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("rst")])
def test_delta_eta_is_what_the_paper_derives(name: str) -> None:
    found_rows = {cell.row.name: cell for cell in cells(name)}  # a rule is the same in every column
    for cell in found_rows.values():
        if cell.row.name in stated.DELTA_ETA:
            found = expected_extra(parse(cell.experiment.settings.rule), 1000)
            assert found == pytest.approx(stated.DELTA_ETA[cell.row.name], abs=1e-5)


def test_delta_eta_of_a_selected_batch_is_what_its_steps_take() -> None:
    """ESAM goes forward once more over the whole batch, and twice over the selected part."""
    rng = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(3, 2)
    for text in ("esam(0.1, fraction=0.5)", "esam(0.1, fraction=1.0)", "looksam(0.1, every=2)"):
        optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), 0.1), parse(text), model=model)
        for _ in range(4):
            optimizer.step(
                Batch(model, torch.nn.functional.cross_entropy, torch.randn(8, 3, generator=rng), torch.arange(8) % 2)
            )
        assert optimizer.passes / 4 - 1.0 == pytest.approx(expected_extra(parse(text), 4))


def test_sparsities_and_schedules_are_those_of_the_tables() -> None:
    for name in ("ssam-table1", "ssam-table2", "ssam-table4"):
        rows = [row.variables["s"] for row in recipes.read(name).rows if "s" in row.variables]
        assert rows == 2 * stated.SPARSITIES
    for cell in cells("ssam-table1"):
        rule = parse(cell.experiment.settings.rule)
        inner = getattr(rule, "perturbation", None)
        if isinstance(inner, Masked):
            assert inner.mask.sparsity == cell.row.variables["s"]  # type: ignore[attr-defined]
    interval = {c.row.name: c.experiment.settings.rule for c in cells("ssam-table9")}
    assert "every=1955" in interval["SSAM-F s=0.5 T_m=5"]  # 5 epochs of 391 steps
    rows = {row.name for row in recipes.read("rst-figure7").rows}
    assert rows == {row for row in stated.DELTA_ETA if not row.startswith(("RST cos", "RST sin", "G-RST"))}


@pytest.mark.parametrize(("place", "value"), stated.PRINTED.items())
def test_printed_figures(place: tuple[str, str, str, str], value: float) -> None:
    name, column, quantity, row = place
    text = recipes.read(name).published[column, quantity][row]
    assert float(text.split("±")[0].split("(")[0]) == value


def test_published_rows_and_columns_exist() -> None:
    for name in recipes.names():
        recipe = recipes.read(name)
        rows, columns = {row.name for row in recipe.rows}, {column.name for column in recipe.columns["paper"]}
        for (column, _), texts in recipe.published.items():
            assert column in columns | {"*"}, (name, column)
            assert set(texts) <= rows, (name, set(texts) - rows)
        for claim in recipe.claims:
            assert all(than.startswith("=") or than in rows for than in claim.than), (name, claim.than)


def test_claims_speak_of_rows_that_are_run() -> None:
    """Every pattern of rows and columns, every row compared with, every baseline; no constants but `above`'s."""
    for name in recipes.names():
        recipe = recipes.read(name)
        for claim in recipe.claims:
            assert bool(claim.threshold) == (claim.kind == "above"), name
            for scale in SCALES:
                columns = [column.name for column in recipe.columns[scale]]
                if not matching(columns, claim.columns):
                    continue
                rows = [row.name for row in selected(recipe, scale)]
                assert all(matching(rows, [pattern]) for pattern in claim.rows), (name, scale, claim.text)
                assert all(than in rows for than in claim.than if not than.startswith("=")), (name, scale, claim.text)
                assert claim.kind not in {"close", "no-more"} or claim.baseline in rows, (name, scale, claim.text)
        named = [column.name for scale in SCALES for column in recipe.columns[scale]]
        assert all(matching(named, [pattern]) for claim in recipe.claims for pattern in claim.columns), name


def test_paper_column_of_flops() -> None:
    """k = 12/17 gives every figure of the column, k = 2/3 none; both are kept apart by name."""
    printed = recipes.read("ssam-table1").published["*", "flops"]
    for s in stated.SPARSITIES:
        assert f"{flops(2.0, s, FLOPS['paper']):.2f}" == printed[f"SSAM-F s={s}"]
        assert f"{flops(2.0, s, FLOPS['conventional']):.2f}" != printed[f"SSAM-F s={s}"]


@pytest.mark.parametrize("scale", SCALES)
def test_every_recipe_can_be_planned(scale: str) -> None:
    for name in recipes.names():
        planned = cells(name) if scale == "paper" else recipes.plan(recipes.read(name), scale, seeds=1)
        assert planned
        assert len({cell.folder for cell in planned}) == len(planned), name
        assert all(cell.examples > 0 for cell in planned)


def test_networks_are_known() -> None:
    used = {cell.experiment.model.partition("(")[0] for name in recipes.names() for cell in cells(name)}
    assert used <= set(models.names())
