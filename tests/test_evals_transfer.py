"""Logistic regression with a chosen penalty, and the evaluation that transfers to data sets."""

import markdown_rows
import numpy as np
import pytest
import tiny_run
from frozen_subject import FrozenSubject, settings
from probe_reference import clusters
from sklearn.linear_model import LogisticRegression

from iecl_jax import config as config_lib
from iecl_jax.evals import transfer
from iecl_jax.evals.measures import few_labels, logistic
from iecl_jax.evals.measures.probe_grid import split_holdout
from iecl_jax.evals.parts import jobs

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def standardised(x, *others):
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    return [(each - mean) / std for each in (x, *others)]


def test_training_ends_where_the_gradient_of_the_penalised_loss_is_zero():
    x, y = clusters(90, width=4)
    y[:9] = -1
    penalty = 0.05
    found = logistic.train(x, y, penalty=penalty)
    (z,) = standardised(x[9:])
    kernel, bias = found.model.coef_, found.model.intercept_
    gradient, of_bias = penalty * kernel, np.zeros(3)
    for row, label in zip(z, y[9:], strict=True):
        logits = [float(row @ kernel[c] + bias[c]) for c in range(3)]
        total = sum(np.exp(logits))
        for c in range(3):
            error = np.exp(logits[c]) / total - (c == label)
            gradient[c] += error * row / len(z)
            of_bias[c] += error / len(z)
    np.testing.assert_allclose(gradient, 0, atol=3e-4)
    np.testing.assert_allclose(of_bias, 0, atol=3e-4)
    expected = np.argmax(z @ kernel.T + bias, axis=1)
    np.testing.assert_array_equal(found.predict(x[9:]), expected)


@pytest.mark.parametrize("per_class", [False, True])
def test_the_penalty_is_that_of_the_best_held_out_accuracy(per_class):
    (x, y), penalties = clusters(120, width=30, spread=3.0), [1e-4, 10.0, 0.3, 1e3]
    y[y == 2] = np.where(np.arange((y == 2).sum()) % 4, 1, 2)  # a rare class
    choice = logistic.choose(
        x, y, penalties=penalties, holdout=0.3, seed=(4, 1), per_class=per_class
    )
    kept, held = split_holdout(y, share=0.3, seed=(4, 1))
    train, test = standardised(x[kept], x[held])
    expected = []
    for penalty in penalties:
        model = LogisticRegression(C=1 / penalty / len(kept), tol=1e-7, max_iter=5000)
        right = model.fit(train, y[kept]).predict(test) == y[held]
        classes = [right[y[held] == label].mean() for label in range(3)]
        expected.append(np.mean(classes) if per_class else right.mean())
    np.testing.assert_allclose(choice.scores, expected, atol=0.03)  # an image of 36
    assert choice.scores.argmax() == np.argmax(expected)
    assert choice.penalty == penalties[np.argmax(expected)]
    assert len({*choice.scores}) > 2


def test_accuracy_of_unequal_classes():
    labels, predicted = np.array([0, 0, 0, 0, 5, -1]), np.array([0, 0, 0, 5, 5, 0])
    assert logistic.accuracy(predicted, labels) == 4 / 5
    assert logistic.accuracy(predicted, labels, per_class=True) == (3 / 4 + 1) / 2
    with pytest.raises(ValueError, match="no test example is labelled"):
        logistic.accuracy(predicted, np.full(6, -1))


def test_transfer_is_the_mean_over_draws_of_what_each_chose(capsys):
    subject = FrozenSubject(clusters(90, width=20, spread=2.5), clusters(150, width=20, seed=1))
    subject.test[1][:5] = -1
    asked = settings(transfer, num_penalties=4, penalties=(1e-3, 10.0), draws=3, holdout=0.3)
    transfer.check(subject, asked)
    found = transfer.measure(subject, asked)
    row = found["transfer"]["clusters"]
    scores, chosen = [], []
    for draw in range(3):
        choice = logistic.choose(
            *subject.train, penalties=transfer.penalties(asked), holdout=0.3, seed=(0, draw)
        )
        model = logistic.train(*subject.train, penalty=choice.penalty)
        right = (model.predict(subject.test[0]) == subject.test[1])[5:]
        scores.append(right.mean())
        chosen.append(choice.penalty)
    assert (row["score"], row["std"]) == few_labels.mean_and_std(scores)
    assert found["transfer_score"] == row["score"] == row["top1"]
    assert row["penalty"] in chosen
    [printed] = [row for row in markdown_rows.rows(capsys.readouterr().out) if row[0] == "clusters"]
    assert printed[1] == f"{100 * row['top1']:.1f}"
    subject.config.data.name = "oxford_flowers102"
    table = transfer.measure(subject, asked)["transfer"]["oxford_flowers102"]
    assert table["score"] == table["mean_per_class"] != table["top1"]


def test_each_data_set_of_the_list_is_encoded_by_the_same_network(tmp_path):
    config = config_lib.new("transfer")
    config.pretrain = tiny_run.get_config()
    config.transfer.datasets = ("generated", "image_folder:nowhere")
    with pytest.raises(ValueError, match=r"transfer.datasets has 'image_folder', .*is not a fo"):
        jobs.run(config, str(tmp_path / "run"))
    config.transfer.datasets = ("generated", "generated")
    with pytest.raises(ValueError, match="has 'generated' twice"):
        jobs.run(config, str(tmp_path / "run"))
    config.transfer.datasets = ("generatd",)
    with pytest.raises(ValueError, match=r"has 'generatd', .*data.name='generatd' is unknown"):
        jobs.run(config, str(tmp_path / "run"))
    config.transfer.datasets = ("generated",)
    config.transfer.update({"num_penalties": 2, "draws": 1})
    listed = jobs.run(config, str(tmp_path / "run"))["metrics"]
    config.transfer.datasets = ()
    alone = jobs.run(config, str(tmp_path / "alone"))["metrics"]
    assert listed == alone
    assert listed["transfer_score"] > 0.2  # of ten classes
    config.transfer.datasets = (":x",)
    with pytest.raises(ValueError, match=r"datasets=\(':x',\) must be a tuple of words NAME"):
        config_lib.check(config, 1)
