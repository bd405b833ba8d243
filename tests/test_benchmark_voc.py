"""The measurement of the trainings on VOC: what it prints, and what it refuses."""

import pytest

from iecl_jax import config as config_lib
from iecl_jax.tools.benchmark import voc

SMOKE = {name: f"configs/voc_{name}.py:smoke" for name in ("segmentation", "detection")}


@pytest.mark.parametrize("name", ["configs/knn.py:smoke", "configs/quickstart.py"])
def test_what_does_not_train_on_voc_is_refused(name):
    with pytest.raises(ValueError, match=r"is no training on VOC: name configs/voc_segm"):
        voc.prepare(config_lib.load(name))


@pytest.mark.parametrize("flag", ["--rounds=0", "--steps=0"])
def test_mistakes_are_one_sentence(capsys, flag):
    with pytest.raises(SystemExit):
        voc.main([f"--config={SMOKE['detection']}", flag])
    assert "must be at least 1." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("job", SMOKE)
def test_a_step_is_measured(job, capsys):
    memory = [] if job == "segmentation" else ["--memory"]
    voc.main([f"--config={SMOKE[job]}", "--rounds=2", "--steps=1", *memory])
    printed = capsys.readouterr().out
    assert "| GFLOP an image in products" in printed
    assert "| total by XLA, MB" in printed
    assert f"{config_lib.load(SMOKE[job])[job].image_size} px, float32; " in printed
    assert ("| p90 ms" in printed) == (not memory)
