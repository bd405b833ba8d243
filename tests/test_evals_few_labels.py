import dataclasses
import functools

import markdown_rows
import numpy as np
import pytest
from frozen_subject import FrozenSubject, settings
from probe_reference import clusters
from sklearn.linear_model import LogisticRegression

from iecl_jax.data.split import Record
from iecl_jax.evals import few_labels as job
from iecl_jax.evals.measures import few_labels

pytestmark = pytest.mark.quick

LABELS = np.random.default_rng(0).integers(-1, 4, 200)


def test_few_label_accuracy_is_the_mean_over_the_draws():
    (x, y), (test_x, test_y) = clusters(120, width=9), clusters(200, width=9, seed=1)
    x[:, 0], test_x[:, 0] = 0.1, 7.0  # a dead feature has no deviation
    y[:7], test_y[:9] = -1, -1
    got = few_labels.few_label_accuracy(
        x, y, test_x, test_y, labels_per_class=5, seed=2, num_draws=3
    )
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    std[0] = 1.0
    expected = []
    for draw in range(3):
        rows = few_labels.draw_labels(y, labels_per_class=5, seed=2, draw=draw)
        model = LogisticRegression(tol=1e-6, max_iter=1000).fit((x[rows] - mean) / std, y[rows])
        expected.append(model.score(((test_x - mean) / std)[9:], test_y[9:]))
    np.testing.assert_allclose(got, [np.mean(expected), np.std(expected, ddof=1)], atol=0.006)
    assert 0.4 < got[0] < 1
    assert got[1] > 0


def test_few_label_single_draw_and_errors():
    (x, y), test = clusters(40), clusters(50, seed=1)
    few = functools.partial(few_labels.few_label_accuracy, seed=0)
    first, no_deviation = few(x, y, *test, labels_per_class=2, num_draws=1)
    assert no_deviation == 0.0
    mean, deviation = few(x, y, *test, labels_per_class=2, num_draws=2)
    assert mean != first
    assert deviation == pytest.approx(abs(mean - first) * 2**0.5)
    with pytest.raises(ValueError, match="fewer than labels_per_class=30: lower"):
        few(x, y, *test, labels_per_class=30)
    with pytest.raises(ValueError, match="fewer than two classes"):
        few(x, np.zeros(40, int), *test, labels_per_class=1)
    with pytest.raises(ValueError, match="no test example is labelled"):
        few(x, y, x, np.full(40, -1), labels_per_class=1)
    with pytest.raises(ValueError, match="num_draws is 0"):
        few(x, y, *test, labels_per_class=1, num_draws=0)


def test_few_label_on_more_features_than_examples_converges():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 400)) * np.geomspace(1e-3, 1e3, 400)).astype(np.float32)
    y = np.arange(60) % 3
    mean, _ = few_labels.few_label_accuracy(x, y, x, y, labels_per_class=20, seed=0, num_draws=1)
    assert mean == 1.0


def test_draw_is_stratified_reproducible_and_varied():
    rows = few_labels.draw_labels(LABELS, labels_per_class=6, seed=1, draw=0)
    assert len(set(rows)) == 24
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [6, 6, 6, 6])
    again = few_labels.draw_labels(LABELS, labels_per_class=6, seed=1, draw=0)
    np.testing.assert_array_equal(rows, again)
    for seed, draw in ((1, 1), (2, 0)):
        other = few_labels.draw_labels(LABELS, labels_per_class=6, seed=seed, draw=draw)
        assert not np.array_equal(rows, other)


def test_draw_reaches_every_example_evenly():
    labels = np.repeat([0, 1], [4, 10])
    hits = np.zeros(14)
    for draw in range(400):
        hits[few_labels.draw_labels(labels, labels_per_class=2, seed=0, draw=draw)] += 1
    expected = np.where(labels == 0, 200, 80)
    assert (np.abs(hits - expected) < 50).all()


def test_draw_errors():
    labels = np.array([0, 0, 0, 3, 3, -1, -1, -1])
    with pytest.raises(ValueError, match="class 3 has 2 labelled examples, fewer than"):
        few_labels.draw_labels(labels, labels_per_class=3, seed=0, draw=0)
    with pytest.raises(ValueError, match="labels_per_class is 0"):
        few_labels.draw_labels(labels, labels_per_class=0, seed=0, draw=0)
    with pytest.raises(ValueError, match="no example is labelled"):
        few_labels.draw_labels(labels[5:], labels_per_class=1, seed=0, draw=0)


def test_a_share_is_that_of_every_class():
    labels = np.repeat([0, 1, 3, -1], [100, 4, 250, 40])
    rows = few_labels.draw_share(labels, share=0.1, seed=1)
    assert rows.tolist() == sorted({*rows.tolist()})
    np.testing.assert_array_equal(np.bincount(labels[rows], minlength=4), [10, 1, 0, 25])
    np.testing.assert_array_equal(rows, few_labels.draw_share(labels, share=0.1, seed=1, draw=0))
    for other in ({"seed": 2}, {"seed": 1, "draw": 1}):
        assert not np.array_equal(rows, few_labels.draw_share(labels, share=0.1, **other))
    everything = few_labels.draw_share(labels, share=1.0, seed=0)
    np.testing.assert_array_equal(everything, np.flatnonzero(labels >= 0))
    for share in (0, 1.01):
        with pytest.raises(ValueError, match="choose it above 0 and up to 1"):
            few_labels.draw_share(labels, share=share, seed=0)
    with pytest.raises(ValueError, match="no example is labelled"):
        few_labels.draw_share(labels[-40:], share=0.5, seed=0)


def test_the_evaluation_is_the_mean_over_draws_of_a_share(capsys):
    (x, y), (test_x, test_y) = clusters(150, width=9), clusters(200, width=9, seed=1)
    y[:7], test_y[:9] = -1, -1
    subject = FrozenSubject((x, y), (test_x, test_y), seed=3)
    asked = settings(job, shares=(0.1, 0.5), draws=2, c=0.3)
    job.check(subject, asked)
    found = job.measure(subject, asked)
    table = found["few_labels"]
    assert found["few_labels_10_top1"] == table["10"]["top1"]
    assert found["few_labels_50_top1"] == table["50"]["top1"]
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    expected = []
    for draw in range(2):
        rows = few_labels.draw_share(y, share=0.1, seed=3, draw=draw)
        model = LogisticRegression(C=0.3, tol=1e-6, max_iter=1000)
        model.fit((x[rows] - mean) / std, y[rows])
        expected.append(model.score(((test_x - mean) / std)[9:], test_y[9:]))
    np.testing.assert_allclose(table["10"]["top1"], np.mean(expected), atol=0.006)
    np.testing.assert_allclose(table["10"]["std"], np.std(expected, ddof=1), atol=0.006)
    assert table["10"]["images"] == len(rows)
    [row] = [row for row in markdown_rows.rows(capsys.readouterr().out) if row[0] == "10 %"]
    assert row[1:] == [
        str(len(rows)),
        f"{100 * table['10']['top1']:.1f} ± {100 * table['10']['std']:.1f}",
    ]


def test_a_list_of_files_takes_the_place_of_draws(tmp_path):
    (x, y), test = clusters(60, width=9), clusters(50, width=9, seed=1)
    subject = FrozenSubject((x, y), test)
    rows = np.sort(np.random.default_rng(0).permutation(60)[:20])
    text = "\n".join(f"cls{y[row]}/{row}.png" if row % 2 else f"{row}.png" for row in rows[::-1])
    (tmp_path / "list.txt").write_text(text + "\n\n")
    asked = settings(job, list=str(tmp_path / "list.txt"))
    job.check(subject, asked)
    found = job.measure(subject, asked)
    assert found["few_labels_list_top1"] == few_labels.accuracies(x, y, *test, [rows])[0]
    assert found["few_labels"]["list"]["images"] == 20


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty: write the name of a file on each line"),
        ("1.png\ncls9/2.png\nx.png", r"names 2 files that train of clusters does not have, .*cls9"),
        ("7.png", "which 2 images of train of clusters fit: write the folder before it"),
        ("cls0/7.png", "an image without a label: take it out"),
        ("1.png\n5.png", "names images of one class: name more"),
        (None, r"cannot be read \(No such file or directory\): name a text file"),
        (b"\xff\xfe\xfa", r"cannot be read \(it is no text\)"),
    ],
)
def test_a_list_that_does_not_fit_is_one_sentence(tmp_path, text, words):
    names = ["a/0.png", "a/1.png", "a/5.png", "cls0/7.png", "a/8.png", "b/8.png", "b/9.png"]
    if text == "7.png":
        names[4] = "c/7.png"
    labels = np.array([1, 0, 0, -1, 1, 0, 1])
    subject = FrozenSubject((np.zeros((7, 2)), labels), (np.zeros((7, 2)), labels))
    split = dataclasses.replace(
        subject.split("train"), read=lambda where: [Record(b"", 0, names[i]) for i in where]
    )
    subject.split = lambda name: split
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"few_labels\.list='.*list\.txt' .*{words}"):
        job.check(subject, settings(job, list=str(path)))


def test_a_list_needs_images_with_names(tmp_path):
    labels = np.array([0, 1])
    subject = FrozenSubject((np.zeros((2, 2)), labels), (np.zeros((2, 2)), labels))
    split = dataclasses.replace(
        subject.split("train"), read=lambda where: [Record(b"", 0) for _ in where]
    )
    subject.split = lambda name: split
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(ValueError, match=r"few_labels\.list needs images with file names, and tra"):
        job.check(subject, settings(job, list=str(tmp_path / "list.txt")))
