"""configs/tables.py: the tables are whole, and every row is a config at every scale."""

import pathlib
import runpy

import numpy as np
import pytest

from iecl_jax import config as config_lib
from iecl_jax.tools.tables.rows import at_scale, read_tables, runs_of

ROOT = pathlib.Path(__file__).parent.parent


def test_the_tables_of_the_paper_are_whole():
    found = read_tables(ROOT / "configs" / "tables.py")
    sizes = {name: len(table.rows) for name, table in found.items()}
    least = {"1": 36, "2a": 44, "2b": 6, "3": 4, "4": 3, "5": 8, "fig3": 36, "fig7": 10, "fig8": 18}
    assert all(sizes[name] >= size for name, size in least.items())
    for name, table in found.items():
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels), name
        assert {row.compared_with for row in table.rows} <= {"", *labels}, name
        assert any(row.compared_with for row in table.rows) == bool(table.change) or name == "fig8"
        if table.kind == "grid":
            assert len({row.cell for row in table.rows}) == len(labels), name
        assert table.rows_at("small"), name


def test_ours_is_not_the_best_row_of_table_1_since_byol_stands_beside_it():
    table = read_tables(ROOT / "configs" / "tables.py")["1"]
    best = max(table.rows, key=lambda row: float(row.published or 0))
    assert (best.label, best.published) == ("BYOL (not in the paper's table), 800 epochs", 74.3)
    cells = {row.cell: row.published for row in table.rows}
    assert cells["IE-CL", "800 epochs"] == 73.2
    assert cells["SimCLR", "100 epochs"] == 66.5
    assert table.notes[0].startswith("Published with these batch sizes: 4096 for SimCLR, ")
    assert [row.label for row in table.rows_at("small")] == [
        row.label for row in table.rows if row.cell[1] == "100 epochs"
    ]


def test_table_2b_is_the_paper_s():
    table = read_tables(ROOT / "configs" / "tables.py")["2b"]
    assert {row.label: row.published for row in table.rows} == {
        "supervised": (76.91, 73.76),
        "random initialisation": (38.35, 40.90),
        "SimCLR": (76.74, 73.17),
        "MoCo-v2": (77.32, 73.92),
        "SimSiam": (77.09, 73.45),
        "IE-CL": (78.12, 74.41),
    }
    assert [row.label for row in table.rows if not row.scales] == ["supervised"]
    for scale in ("smoke", "small", "paper"):
        names = [name.split(":")[0] for name in table.evaluations_at(scale)]
        assert names == ["configs/voc_segmentation.py", "configs/voc_detection.py"]
        assert next(row.label for row in table.rows_at(scale)) == "random initialisation"


def test_the_supervised_row_of_table_2b_takes_a_file(tmp_path):
    tables = read_tables(ROOT / "configs" / "tables.py")
    table = tables["2b"].with_supervised("w.safetensors")
    row = table.rows_at("paper")[0]
    assert (row.label, row.scales) == ("supervised", ("smoke", "small", "paper"))
    evaluations = {name: ["--config.data.dir=VOC"] for name in table.evaluations_at("small")}
    found = runs_of(row, 1, "small", tmp_path, [], evaluations)
    assert found.keys() == {"voc_segmentation", "voc_detection"}
    for name, run in found.items():
        assert run.workdir == tmp_path / "supervised" / "seed-1" / name
        assert set(run.flags) == {
            *("--config.checkpoint=w.safetensors", "--config.seed=1", "--config.data.dir=VOC")
        }
    with pytest.raises(ValueError, match="a table with a supervised row, which is 2b"):
        tables["5"].with_supervised("w.safetensors")


def test_the_encoder_of_table_2b_is_that_of_its_evaluations_without_a_checkpoint(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = read_tables(pathlib.Path("configs/tables.py"))["2b"]
    for scale in ("smoke", "small", "paper"):
        flags = table.flags.get(scale, ())
        pretrain = config_lib.load(at_scale(table.rows[2].config, scale), flags)
        for name in table.evaluations_at(scale):
            untrained = config_lib.load(name).pretrain
            assert untrained.encoder == pretrain.encoder
            assert untrained.data.name == pretrain.data.name  # so are the statistics of the pixels


def test_the_averages_of_figure_3_are_those_the_paper_prints():
    grid = runpy.run_path(str(ROOT / "configs" / "tables.py"))["GRID"]
    averages = [round(float(np.mean(numbers)) + 1e-9, 1) for numbers in grid.values()]
    assert averages == [35.9, 32.7, 19.5, 13.8, 9.2, 8.5]


def test_every_row_is_a_config_of_this_project_at_every_scale(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = read_tables(pathlib.Path("configs/tables.py"))
    makers, wrong = {}, []
    for config in {row.config for table in found.values() for row in table.rows} - {""}:
        path, _, variant = config.partition(":")
        if path not in makers:
            makers[path] = runpy.run_path(path)["get_config"]
        for suffix in ("", ",smoke", ",small"):
            try:
                made = makers[path](variant + suffix)
                assert made.data.name == {",smoke": "generated", ",small": "cifar10"}.get(
                    suffix, made.data.name
                )
            except ValueError as error:
                wrong.append(f"{config}{suffix}: {error}")
    assert not wrong
    for table in found.values():
        for scale, flags in table.flags.items():
            assert config_lib.load(at_scale(table.rows[-1].config, scale), flags)
