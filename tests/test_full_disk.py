"""A checkpoint that the disk does not take: one sentence, nothing lost, nothing left behind."""

import os
import subprocess
import sys

SAVES = """
import resource, sys
import jax.numpy as jnp, ml_collections, numpy as np
from iecl_jax.run import checkpoint
state = {"params": {str(i): jnp.asarray(np.random.rand(5000)) for i in range(40)}}
checkpointer = checkpoint.Checkpointer(
    sys.argv[1], keep=2, keep_best=0, config=ml_collections.ConfigDict()
)
checkpointer.save(1, state, position=1, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    checkpointer.save(2, state, position=2)
    checkpointer.close()
except checkpoint.SaveError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence(tmp_path):
    command = [sys.executable, "-c", SAVES, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == (
        f"the checkpoint of step 2 cannot be written into {tmp_path}/checkpoints (File too large); "
        "that of step 1 is whole. Make room or repair the folder: the same command goes on from "
        "there.\n"
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
