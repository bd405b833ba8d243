"""What the processes of one run agree on at their start, and how they end when one has died."""

import json
import sys

import jax
import pytest

from iecl_jax.run import distributed

pytestmark = pytest.mark.quick


@pytest.fixture
def others(monkeypatch):
    """Makes this process 0, and gives what the other processes send."""

    def others(*texts):
        monkeypatch.setattr(distributed, "gathered", lambda text: [text, *texts])

    return others


def test_different_settings_are_named_with_their_processes(others):
    mine = {"rate": 0.3, "seed": 42, "only": None}
    others(json.dumps(mine), json.dumps(mine | {"rate": 0.01}))
    sentence = r"differ in their settings: rate is 0\.3 on process 0, 0\.01 on process 2\. Start"
    with pytest.raises(ValueError, match=sentence):
        distributed.check_same("settings", mine)
    others(json.dumps({f"key{i}": 1 for i in range(9)}))
    with pytest.raises(ValueError, match=r"key2 is 0 on process 0, 1 on process 1 and 6 more"):
        distributed.check_same("settings", {f"key{i}": 0 for i in range(9)})
    others(json.dumps(mine, sort_keys=True))
    distributed.check_same("settings", mine)


def test_the_mistake_of_one_process_ends_all(others):
    others("", "runs/a is in use")
    with pytest.raises(ValueError, match="process 2: runs/a is in use"), distributed.together():
        pass
    with pytest.raises(OSError, match="full"), distributed.together():
        raise OSError("full")
    others("", "")
    with distributed.together():
        pass


def test_a_process_alone_asks_nobody():
    assert distributed.gathered("é") == ["é"]
    distributed.check_same("settings", {"seed": 1})


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"),
        ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"),
    ],
)
@pytest.mark.parametrize("as_sentence", [False, True])
def test_a_lost_peer_is_the_promised_sentence(error, as_sentence, monkeypatch):
    class Left(Exception):
        pass

    def leave(last_words):
        raise Left(last_words)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "_leave", leave)

    @distributed.ending_the_others()
    def run():
        try:
            raise error
        except Exception:
            if as_sentence:
                sys.exit(f"error: {error}")
            raise

    with pytest.raises(
        Left, match=r"process 0 of 1 stops, because another process .* \(UNKNOWN: G"
    ):
        run()


def test_another_mistake_is_its_own_sentence(monkeypatch):
    said = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "_leave", said.append)
    with distributed.ending_the_others():
        try:
            raise ValueError("train.batch_size=6 must be a multiple of the 4 devices.")
        except ValueError as error:
            sys.exit(f"error: {error}")
    assert said == ["error: train.batch_size=6 must be a multiple of the 4 devices."]
