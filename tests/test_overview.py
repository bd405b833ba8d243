"""What people look at after a run: neighbours, the map of the features, the classes."""

import json
import pathlib
import re

import ml_collections
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax import data, evals, main
from iecl_jax.configs import knn as knn_config
from iecl_jax.evals.measures import classes, feature_map, knn
from iecl_jax.evals.parts import jobs, overview
from iecl_jax.evals.parts.subject import Sample, Subject
from iecl_jax.evals.pictures import feature_map as map_picture
from iecl_jax.evals.pictures import neighbours, style
from iecl_jax.tools.figures import feature_map as map_command
from iecl_jax.tools.figures import neighbours as neighbours_command
from iecl_jax.tools.figures import report
from iecl_jax.train.experiment import build
from tests import tiny_run

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


def clusters(n=40, width=8):
    """Points around three far centres, with their class."""
    labels = np.arange(n) % 3
    noise = np.random.default_rng(0).normal(0, 0.1, (n, width))
    return (np.eye(width)[labels] + noise).astype(np.float32), labels.astype(np.int32)


def pixels(picture, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.asarray(picture) == wanted).all(-1).sum())


def test_the_nearest_are_those_of_the_largest_cosine():
    generator = np.random.default_rng(1)
    bank, queries = generator.normal(size=(50, 6)), generator.normal(size=(7, 6))
    cosines, rows = knn.nearest(bank, queries, k=4)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, bank)]
    exact = unit[0] @ unit[1].T
    assert_array_equal(rows, np.argsort(-exact, axis=1)[:, :4])
    assert_allclose(cosines, -np.sort(-exact, axis=1)[:, :4], rtol=1e-5)


def test_the_name_of_a_class_in_two_groups_stands_on_one_of_them():
    generator = np.random.default_rng(0)
    groups = [generator.normal(centre, 0.1, (20, 2)) for centre in (-5.0, 5.0)]
    for points in (np.concatenate(groups), np.zeros((3, 2)), np.ones((1, 2))):
        chosen = map_picture.densest(points)
        assert (points == chosen).all(1).any()
        distances = np.linalg.norm(points - chosen, axis=1)
        assert (distances < 0.5).sum() >= len(points) / 2


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_keeps_classes_together_and_is_the_same_again(method):
    features, labels = clusters()
    points, used = feature_map.project(features, method=method, seed=3)
    assert used == method
    assert points.shape == (40, 2)
    within = np.mean([points[labels == c].std(0).mean() for c in range(3)])
    assert within < 0.5 * points.std(0).mean()
    assert_array_equal(points, feature_map.project(features, method=method, seed=3)[0])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_or_equal_features_have_a_map_too(n):
    assert np.isfinite(feature_map.project(clusters(n)[0], method="tsne", seed=0)[0]).all()
    for equal in (np.ones((n, 4), np.float32), np.zeros((n, 4), np.float32)):
        points, used = feature_map.project(equal, method="tsne", seed=0)
        assert used == "pca"
        assert_array_equal(points, np.zeros((n, 2)))
    narrow = feature_map.project(np.arange(1.0, n + 1)[:, None], method="pca", seed=0)[0]
    assert narrow.shape == (n, 2)


def test_a_map_that_cannot_be_made_says_why(monkeypatch):
    with pytest.raises(ValueError, match="not finite"):
        feature_map.project(np.full((4, 2), np.nan), method="tsne", seed=0)
    monkeypatch.setattr(feature_map.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install umap-learn"):
        feature_map.project(clusters()[0], method="umap", seed=0)


def test_classes_are_counted_and_sorted():
    truth = np.array([0, 0, 0, 0, 1, 1, 2, -1])
    predicted = np.array([0, 0, 0, 2, 2, 2, 2, 1])
    found = classes.per_class(predicted, truth, ("cat", "dog", "owl", "never seen"))
    assert [(c["name"], c["images"], c["accuracy"]) for c in found["classes"]] == [
        ("dog", 2, 0.0),
        ("cat", 4, 0.75),
        ("owl", 1, 1.0),
    ]
    assert [tuple(pair.values()) for pair in found["confusions"]] == [
        ("dog", "owl", 2),
        ("cat", "owl", 1),
    ]


def row(label, labels):
    image = np.full((10, 10, 3), 200, np.uint8)
    return neighbours.Row(image, label, [image] * len(labels), labels, [0.5] * len(labels))


def test_frames_tell_right_from_wrong_and_stay_grey_without_labels():
    names = ("a", "$b_", "a very long name of a class")
    right = neighbours.draw([row(0, [0, 0])], names)
    wrong = neighbours.draw([row(0, [0, 2])], names)
    unknown = neighbours.draw([row(-1, [0, 1]), row(0, [-1, -1])], ())
    assert pixels(right, style.BLUE) > pixels(wrong, style.BLUE) > 500
    assert pixels(wrong, style.RED) > pixels(right, style.RED) + 300
    assert not pixels(unknown, style.BLUE)
    assert not pixels(unknown, style.RED)


def test_the_map_has_a_colour_and_a_name_for_each_class():
    features, labels = clusters()
    with style.context():
        figure = map_picture.figure(features[:, :2], labels, ("a", "$b$", "_c"), "title")
        picture = style.picture(figure)
    for colour in style.COLOURS[:3]:
        assert (
            np.abs(picture - np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])) < 60
        ).any()
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "$b$", "_c"]
    with style.context():
        style.picture(map_picture.figure(features[:, :2], np.full(40, -1), (), "unlabelled"))


class Encoder:
    """Stands in for SplitEncoder: images of three classes whose features are clusters."""

    def __init__(self, test=True, names=("a", "b", "c")):
        labels = clusters()[1] if len(names) == 3 else np.full(40, len(names) - 1)
        images = [np.full((4, 4, 3), 6 * place, np.uint8) for place in range(40)]
        self.splits = {
            name: data.Split(
                name=name,
                class_names=names,
                image_shape=(4, 4),
                length=40,
                read=lambda indices: [data.split.Record(images[i], labels[i]) for i in indices],
                read_labels=lambda: labels,
                is_train=name == "train",
            )
            for name in ("train", "test")[: 1 + test]
        }

    def split(self, name):
        if name not in self.splits:
            raise ValueError("there are no test images")
        return self.splits[name]

    def bind(self, params, method_state):
        return None

    def extract(self, encode, split, indices):
        return clusters()[0][indices], split.labels[indices]


def subject(path, **settings):
    return Subject(tiny_run.get_config(), None, Encoder(**settings), str(path), 0)


def test_unlabelled_images_have_neighbours_and_a_map_and_no_classes(tmp_path):
    overview.measure(subject(tmp_path, test=False, names=()), None)
    folder = tmp_path / "figures"
    assert sorted(path.name for path in folder.iterdir()) == ["feature_map.png", "neighbours.png"]
    assert not pixels(Image.open(folder / "neighbours.png"), style.BLUE)


def test_one_class_tells_nothing_apart(tmp_path):
    overview.measure(subject(tmp_path, names=("all",)), None)
    assert not (tmp_path / "figures" / "classes.json").exists()
    assert not pixels(Image.open(tmp_path / "figures" / "neighbours.png"), style.BLUE)


def test_without_predictions_the_classes_are_those_of_knn_on_the_sample(tmp_path):
    overview.measure(subject(tmp_path), None)
    found = json.loads((tmp_path / "figures" / "classes.json").read_text())
    assert (found["images"], found["bank"]) == (40, 40)
    assert [each["accuracy"] for each in found["classes"]] == [1.0, 1.0, 1.0]
    assert found["confusions"] == []


def test_a_query_is_not_its_own_neighbour(tmp_path, monkeypatch):
    drawn, headings = [], []

    def draw(rows, names, *, among_themselves):
        drawn.extend(rows)
        headings.append(among_themselves)

    monkeypatch.setattr(neighbours, "draw", draw)
    overview.draw_neighbours(subject(tmp_path, test=False), queries=4, k=3)
    assert len(drawn) == 4
    for each in drawn:
        assert len(each.images) == 3
        assert all((image != each.query).any() for image in each.images)
        assert max(each.cosines) < 1
    overview.draw_neighbours(subject(tmp_path), queries=4, k=3)
    assert headings == [True, False]


def test_queries_are_of_different_classes():
    labels = np.array([0] * 20 + [1, 2, 3])
    rows = overview._of_different_classes(labels, 6, seed=0)
    assert_array_equal(labels[rows], [0, 0, 0, 1, 2, 3])
    assert len(set(rows)) == 6


def test_what_cannot_be_drawn_is_a_warning(tmp_path, caplog):
    broken = subject(tmp_path)
    broken._samples["test"] = Sample(
        broken.split("test"), np.arange(3), np.full((3, 8), np.nan, np.float32), np.arange(3)
    )
    assert overview.measure(broken, None) == {}
    assert "No figures/feature_map.png: the features hold values" in caplog.text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run by the user's functions, to its results."""
    path = tmp_path_factory.mktemp("overview") / "run"
    main.pretrain(tiny_run.get_config(), str(path))
    return path


def test_a_run_draws_at_its_end_and_its_report_shows_it(run):
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {"neighbours.png", "feature_map.png", "classes.json"}
    found = json.loads((run / "figures" / "classes.json").read_text())
    results = json.loads((run / "results.json").read_text())["metrics"]
    right = sum(each["accuracy"] * each["images"] for each in found["classes"])
    assert right / found["images"] == pytest.approx(results["knn_top1"])
    text = (run / "report.html").read_text()
    for words in ("Accuracy of each class", "Nearest neighbours", "Map of the features"):
        assert words in text


@pytest.mark.parametrize("pictures", [True, False])
def test_a_setting_turns_the_pictures_off(run, pictures, tmp_path):
    config = tiny_run.get_config()
    config.eval.pictures = pictures
    split = data.open_split(config.data, "pretrain")
    lengths = {"total_steps": 1, "steps_per_epoch": 1}
    method = build(config, num_classes=0, **lengths).method
    found = evals.scheduled(config, method, split, str(tmp_path))
    assert ("pictures" in [each.name for each in found]) is pictures


def test_a_job_draws_what_it_computed(run, tmp_path):
    config = knn_config.get_config()
    config.checkpoint = str(run)
    config.knn.k = 3
    jobs.run(config, str(tmp_path / "job"))
    assert (tmp_path / "job" / "figures" / "neighbours.png").exists()
    text = report.write(tmp_path / "job").read_text()
    assert "<h1>knn of run</h1>" in text
    assert "Accuracy of each class" in text
    assert "Entropy of the embeddings" not in text
    config.pictures = False
    jobs.run(config, str(tmp_path / "off"))
    assert not (tmp_path / "off" / "figures").exists()


def test_the_commands_draw_a_finished_run(run, tmp_path, capsys):
    out = tmp_path / "n.png"
    neighbours_command.main([f"--workdir={run}", "--queries=2", "--k=3", f"--out={out}"])
    assert Image.open(out).size[1] < 300
    map_command.main([f"--workdir={run}", "--method=pca", f"--out={tmp_path / 'm.svg'}"])
    assert (tmp_path / "m.svg").read_text().startswith("<?xml")
    assert capsys.readouterr().out == f"{out}\n{tmp_path / 'm.svg'}\n"
    folder = run / "figures"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    map_command.main([f"--workdir={run}", "--method=pca"])
    neighbours_command.main([f"--workdir={run}", "--queries=2", "--k=3"])
    drawn = [folder / "feature_map-method=pca.png", folder / "neighbours-k=3-queries=2.png"]
    assert capsys.readouterr().out.split() == list(map(str, drawn))
    assert before == {path: path.read_bytes() for path in before}  # those of the run itself
    for path in drawn:
        path.unlink()
    for command, flags, words in (
        (neighbours_command, ["--out=a.pdf"], "must end in .png"),
        (neighbours_command, ["--k=0"], "of at least 1"),
        (map_command, ["--method=lda"], "invalid choice"),
        (map_command, [f"--workdir={tmp_path}"], "checkpoint"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command.main([f"--workdir={run}", *flags])
        assert words in f"{stopped.value} {capsys.readouterr().err}"


def test_the_commands_draw_images_of_ones_own(run, tmp_path, capsys):
    for number in range(4):
        Image.new("RGB", (30, 20), (60 * number, 90, 40)).save(tmp_path / f"{number}.png")
    words = ["--config.data.name=image_folder", f"--config.data.dir={tmp_path}", "--k=2"]
    out = tmp_path / "out" / "n.png"
    neighbours_command.main([f"--workdir={run}", *words, f"--out={out}"])
    assert Image.open(out).size[0] < 400
    neighbours_command.main([f"--workdir={run}", *words])
    drawn = pathlib.Path(capsys.readouterr().out.split()[-1])
    assert drawn.parent == run / "figures"
    assert "data.name=image_folder" in drawn.name
    drawn.unlink()
    for word, said in (
        ("--config.knn.k=3", "takes data.KEY, best and seed"),
        ("--config.data.nam=x", "did you mean"),
        ("--config.data.name=nowhere", "data.name='nowhere'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            neighbours_command.main([f"--workdir={run}", word])
        assert said in f"{stopped.value} {capsys.readouterr().err}"


def test_an_encoder_is_loaded_and_encodes_pixels_and_files(run, tmp_path):
    encoder = evals.load(run, batch_size=4)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    features = encoder(pixels)
    assert features.shape == (7, tiny_run.FEATURES)
    assert features.dtype == np.float32
    assert_allclose(encoder(pixels[2:3]), features[2:3], rtol=1e-5)
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    assert_allclose(encoder(paths), features, rtol=1e-5)
    photo = tmp_path / "photo.jpg"
    Image.new("L", (300, 200), 128).save(photo)
    assert encoder([str(photo)]).shape == (1, tiny_run.FEATURES)
    assert encoder([]).shape == (0, tiny_run.FEATURES)
    with pytest.raises(ValueError, match=r"are the path 'a\.jpg': pass a list of paths"):
        encoder("a.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as an image"):
        encoder([broken])
    for wrong in (pixels.astype(np.float32), pixels[0], pixels[..., :1]):
        with pytest.raises(ValueError, match=r"pass uint8 \[N, H, W, 3\]"):
            encoder(wrong)


def test_the_python_of_the_readme_runs(run, capsys):
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert '"runs/quickstart"' in code
    exec(compile(code.replace('"runs/quickstart"', repr(str(run))), "README.md", "exec"), {})
    assert re.fullmatch(r"0 \[\d \d \d \d \d\]\n", capsys.readouterr().out)


def test_pictures_are_declared_for_runs_and_for_jobs():
    assert config_lib.new().eval.pictures is True
    assert config_lib.new("knn").pictures is True
    assert isinstance(config_lib.new("knn").knn, ml_collections.ConfigDict)
