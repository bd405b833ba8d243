"""Makes the writer for a run's log lines and TensorBoard event files."""

from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING:
    from clu import metric_writers


def create_writer(workdir: str) -> "metric_writers.MetricWriter":
    """Returns clu's writer: log lines on every process, event files in WORKDIR on process 0.

    A thread writes the event files.
    """
    # Imported here, since TensorFlow takes seconds: commands that only read a config need none.
    import tensorflow as tf
    from clu import metric_writers

    # clu writes with TensorFlow, which would otherwise allocate the GPU memory that JAX needs.
    tf.config.set_visible_devices([], "GPU")
    return metric_writers.create_default_writer(
        workdir, just_logging=jax.process_index() > 0, asynchronous=True
    )
