"""The loop with actions, on a state that counts: what is due, in which order, what remains."""

import os
import signal

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from iecl_jax import console
from iecl_jax.run import events, metrics
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.run.preemption import EXIT_CODE
from iecl_jax.train import actions, loop

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


class Batches:
    """An endless stream of its own positions."""

    def __init__(self, start):
        self.position, self.closed = start, 0

    def __next__(self):
        self.position += 1
        return self.position - 1

    def close(self):
        self.closed += 1


def take(state, batches):
    """Counts the steps and sums the batches; the loss of a batch from 100 on is not a number."""
    losses = [float("nan") if batch >= 100 else float(batch) for batch in batches]
    total = state["sum"] + sum(batches)
    return {"sum": total, "count": state["count"] + len(batches)}, {"loss": np.array(losses)}


class Evaluation:
    """Notes the steps at which it is called, and does what a test wants done there."""

    name = "score"

    def __init__(self, every, scores=lambda state, now: {"score": now.step}):
        self.every, self.scores, self.steps = actions.Every(every, at_end=True), scores, []

    def due(self, now):
        return self.every(now)

    def __call__(self, state, now):
        self.steps.append(now.step)
        return self.scores(state, now)


@pytest.fixture
def start(tmp_path):
    """Makes the run in a folder, new or resumed; its batches are those of `run.opened`."""
    opened = []

    def start(total=10, first=0, keep_best=0):
        checkpointer = Checkpointer(
            tmp_path, keep=2, keep_best=keep_best, config=ml_collections.ConfigDict()
        )
        run = loop.Run(
            run_dir=str(tmp_path),
            checkpointer=checkpointer,
            state={"sum": jnp.array(0), "count": jnp.array(0)},
            steps=take,
            open_batches=lambda start: opened.append(Batches(start + first)) or opened[-1],
            total=total,
            steps_per_epoch=5,
            batch_size=2,
        )
        run.opened = opened
        return run

    return start


def saved(tmp_path):
    return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())


def stop(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    return {}


@pytest.mark.parametrize("steps_per_call", [1, 2, 4])
def test_everything_is_done_at_its_step_whatever_the_steps_of_a_call(
    start, tmp_path, steps_per_call
):
    run = start()
    evaluation = Evaluation(5)
    todo = [
        actions.Log(run, 3),
        actions.Evaluate(run, evaluation),
        actions.Save(run, 4),
    ]
    last = loop.train(run, todo, steps_per_call=steps_per_call)
    assert (last.step, last.last, last.scores) == (10, True, {"score": 10})
    assert evaluation.steps == [5, 10]
    assert saved(tmp_path) == [8, 10]  # the newest two
    assert int(run.state["sum"]) == sum(range(10))
    assert [batches.closed for batches in run.opened] == [1]
    scalars = events.read(tmp_path).scalars
    losses = scalars["train/loss"]
    # Whatever is due, the means up to there are written first: 1-3, 4, 5, 6, 7-8, 9, 10.
    assert losses.steps.tolist() == [3, 4, 5, 6, 8, 9, 10]
    assert losses.values.tolist() == [1, 3, 4, 5, 6.5, 8, 9]
    assert scalars["eval/score"].steps.tolist() == [5, 10]
    assert scalars["train/epoch"].values[-1] == 2


def test_a_run_says_how_far_it_is_and_how_long_it_takes(start, caplog, monkeypatch):
    caplog.set_level("INFO", "absl")
    monkeypatch.setattr(console, "_display", console._Display())  # It has said nothing yet.
    run = start(total=1003)

    class Slow(actions.Log):
        def __call__(self, now):
            self._run.log.images_per_second = 0.25
            super().__call__(now)

    def stop_at_once(state, now):
        if now.step > 2:
            stop()
        return {"knn_top1": 0.5}

    evaluation = Evaluation(2, stop_at_once)
    with pytest.raises(SystemExit):
        loop.train(run, [actions.Evaluate(run, evaluation), Slow(run, 2)])
    assert "Training: step 2 of 1,003, loss 0.5, kNN 50.0 %, 0.25 images/s, 2 h 13 min to go" in (
        caplog.text
    )
    assert "Expected time: 2 h 13 min, until " in caplog.text
    actions.Log(run, 1)(loop.Now(1003, last=True))
    assert run.shown.note == "loss 2.5, kNN 50.0 %, 0.25 images/s"  # nothing is left to go
    said = caplog.text.index
    assert said("compiling the training step ...") < said("Training: step 2")


def test_numbers_of_tables_are_logged_and_no_walls_of_them():
    scores = {
        "knn_top1": np.float32(0.5),
        "comparison": {"raw pixels": {"knn_top1": 0.25, "note": "x"}, "trained encoder": {}},
        "by class": {f"class {number}": 1.0 for number in range(51)},
        "spectrum": [1.0, 2.0],
        "text": "x",
    }
    assert metrics.flat(scores) == {"knn_top1": 0.5, "comparison/raw_pixels/knn_top1": 0.25}


def test_what_is_not_finite_leaves_the_last_good_checkpoint_on_the_disk(start, tmp_path):
    run = start(first=97)
    sentence = "step 4: loss not finite; the last good checkpoint is that of step 3"
    with pytest.raises(FloatingPointError, match=sentence):
        loop.train(run, [actions.Save(run, 1)])
    assert saved(tmp_path) == [2, 3]
    assert run.opened[0].closed == 1
    again = start()
    assert (again.step, int(again.state["count"])) == (3, 3)


def test_an_error_closes_everything_once_and_finishes_the_save_under_way(start, tmp_path):
    run = start()

    def fail(state, batches):
        if batches == [1]:
            raise RuntimeError("no more room")
        return take(state, batches)

    run.steps = fail
    with pytest.raises(RuntimeError, match="no more room"):
        loop.train(run, [actions.Evaluate(run, Evaluation(1)), actions.Save(run, 1)])
    assert saved(tmp_path) == [1]
    assert run.opened[0].closed == 1
    assert events.read(tmp_path).scalars["eval/score"].steps.tolist() == [1]


def test_what_only_measures_finds_the_step_saved_and_never_ends_the_run(start, tmp_path, caplog):
    """Its kill (here an error that nothing catches) costs no step, and it is done after all."""

    def measure(run, first):
        second = Evaluation(4)
        measuring = [actions.Evaluate(run, Evaluation(4, first)), actions.Evaluate(run, second)]
        save = actions.Save(run, 2)
        return second, [actions.SaveFirst(save, measuring), *measuring, save]

    class Killed(BaseException):
        pass

    def kill(state, now):
        assert run.checkpointer.newest() == now.step
        raise Killed

    run = start()
    with pytest.raises(Killed):
        loop.train(run, measure(run, kill)[1])
    assert saved(tmp_path) == [2, 4]

    def fail(state, now):
        raise ValueError("2 of 33 images are broken.")

    run = start()
    second, todo = measure(run, fail)
    last = loop.train(run, todo)
    assert second.steps == [4, 8, 10]
    assert "step 8: no score, the training goes on: 2 of 33 images are broken." in caplog.text
    assert last.scores == {"score": 10}
    assert (int(run.state["count"]), saved(tmp_path)) == (10, [8, 10])
    assert not start(total=12).earlier.stopped


def test_the_scores_of_a_step_that_was_saved_first_choose_the_best(start, tmp_path):
    run = start(keep_best=1)
    measuring = [
        actions.Evaluate(run, Evaluation(2, lambda state, now: {"knn_top1": 1 / now.step}))
    ]
    save = actions.Save(run, 100, scored=True)
    loop.train(run, [actions.SaveFirst(save, measuring), *measuring, save])
    assert saved(tmp_path) == [2, 8, 10]


def test_what_was_logged_and_the_time_survive_a_kill(start):
    run = start(total=3)
    loop.train(run, [actions.Save(run, 1)])
    logged, seconds = run.log.last, run.seconds
    assert logged["loss"] == 2
    run = start(total=3)
    loop.train(run, [actions.Save(run, 1)])
    assert run.log.last == logged
    assert run.log.images_per_second == logged["images_per_second"]
    assert 0 < run.seconds_before <= seconds


def test_an_error_of_closing_does_not_hide_what_went_wrong(start, caplog):
    run = start(first=100)

    def fail():
        raise OSError("the disk is full")

    run.checkpointer.close = fail
    with pytest.raises(FloatingPointError, match="step 1: loss"):
        loop.train(run, [actions.Log(run, 1)])
    assert "the disk is full" in caplog.text
    run = start(total=1)
    run.checkpointer.close = fail
    with pytest.raises(OSError, match="the disk is full"):
        loop.train(run, [actions.Log(run, 1)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_evaluation_saves_first_and_the_rest_follows_later(start, tmp_path, number):
    """The evaluation that it came in is left, those after it are not begun."""
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    ended = []

    def interrupted(state, now):
        os.kill(os.getpid(), number)
        for _ in range(100):
            pass  # Python looks for signals between its instructions
        ended.append(now.step)
        return {"first": 1.0}

    def evaluate(run, first):
        second = Evaluation(4)
        todo = [actions.Evaluate(run, Evaluation(4, first)), actions.Evaluate(run, second)]
        return second, [*todo, actions.Save(run, 100)]

    run = start()
    second, todo = evaluate(run, interrupted)
    with pytest.raises(SystemExit) as left:
        loop.train(run, todo)
    assert left.value.code == EXIT_CODE
    assert (ended, second.steps, saved(tmp_path)) == ([], [], [4])
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers

    run = start()
    second, todo = evaluate(run, lambda state, now: {})
    loop.train(run, todo)
    assert second.steps == [4, 8, 10]
    assert int(run.state["sum"]) == sum(range(10))


def test_a_signal_before_an_evaluation_saves_without_it(start, tmp_path):
    run = start()
    evaluation = Evaluation(3)
    taken = run.steps

    def steps(state, batches):
        if batches[0] == 2:
            stop()
        return taken(state, batches)

    run.steps = steps
    with pytest.raises(SystemExit):
        loop.train(run, [actions.Evaluate(run, evaluation), actions.Save(run, 100)])
    assert (evaluation.steps, saved(tmp_path)) == ([], [3])


@pytest.mark.parametrize("code", [EXIT_CODE, 1])
def test_a_loop_inside_of_an_evaluation_that_is_stopped_stops_the_one_outside(
    start, tmp_path, code
):
    def stopped(state, now):
        raise SystemExit(code)

    run = start()
    with pytest.raises(SystemExit) as left:
        loop.train(run, [actions.Evaluate(run, Evaluation(4, stopped)), actions.Save(run, 100)])
    assert left.value.code == code
    assert saved(tmp_path) == ([4] if code == EXIT_CODE else [])


def test_a_run_that_ended_without_its_results_is_measured_again(start):
    for _ in range(2):
        run = start(total=3)
        evaluation = Evaluation(0)
        last = loop.train(run, [actions.Evaluate(run, evaluation), actions.Save(run, 1)])
        assert (evaluation.steps, last.scores) == ([3], {"score": 3})


def test_more_steps_than_asked_for_are_refused(start):
    run = start(total=3)
    loop.train(run, [actions.Save(run, 1)])
    with pytest.raises(ValueError, match=r"has trained 3 steps already, more than the 2 asked for"):
        start(total=2)


class Diagnostics:
    """An alarm at the second step."""

    class Found:
        values, layers = {"rank": 1.0}, {"norm": {"layer": 2.0}}

        def pictures(self, step):
            return {"picture": np.zeros((4, 4, 3), np.uint8)}

    def __call__(self, state):
        self.count = int(state["count"])
        return self.Found()

    def alarms(self, values):
        return ["The rank is low."] if self.count == 2 else []


def test_an_alarm_saves_and_ends_the_run_and_the_next_start_goes_on(start, tmp_path, caplog):
    def todo(run, stop_on_collapse):
        settings = ml_collections.ConfigDict(
            {"every_steps": 1, "stop_on_collapse": stop_on_collapse}
        )
        milestone = actions.Every(3, at_end=True)
        diagnose = actions.Diagnose(run, Diagnostics(), settings, milestone)
        return [diagnose, actions.Save(run, 100)]

    run = start(total=4)
    with pytest.raises(loop.CollapseError, match="step 2, which is saved: The rank is low"):
        loop.train(run, todo(run, True))
    assert saved(tmp_path) == [2]
    run = start(total=4)
    last = loop.train(run, todo(run, True))
    assert last.diagnosis == {"rank": 1.0}
    found = events.read(tmp_path)
    assert found.scalars["diagnostics/rank"].steps.tolist() == [1, 2, 3, 4]
    assert found.scalars["norm/layer"].steps.tolist() == [3, 4]  # at milestones
    assert found.pictures["picture"].step == 4


def test_steps_with_scores_are_saved_where_the_best_is_kept(start, tmp_path):
    run = start(total=7)
    evaluation = Evaluation(5, lambda state, now: {"score": 0.5, "table": {"row": 1.0}})
    todo = [actions.Evaluate(run, evaluation), actions.Save(run, 100, scored=True)]
    assert loop.train(run, todo).scores["table"] == {"row": 1.0}
    assert saved(tmp_path) == [5, 7]
    assert "eval/table" not in events.read(tmp_path).scalars


def test_a_call_ends_where_something_is_due():
    def taken(first, total, most, due=lambda step: step % 10 == 0 or step % 15 == 0):
        return list(loop.calls(first, total, most=most, due=due))

    steps = taken(5, 30, 8)
    assert [call[-1] for call in steps] == [10, 15, 20, 28, 30]
    assert [step for call in steps for step in call] == list(range(6, 31))
    assert taken(0, 3, 1) == [range(1, 2), range(2, 3), range(3, 4)]
    assert taken(4, 4, 2) == []
