"""Where a run reports: log lines and TensorBoard event files, through clu's writers."""

from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING:
    from clu import metric_writers


def create_writer(workdir: str) -> "metric_writers.MetricWriter":
    """Log lines from every process; event files in WORKDIR from process 0, written in a thread.

    clu writes them with TensorFlow, which is kept away from the accelerators.
    """
    # TensorFlow takes seconds to import, which whoever only reads a config need not wait for.
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")
    return metric_writers.create_default_writer(
        workdir, just_logging=jax.process_index() > 0, asynchronous=True
    )
