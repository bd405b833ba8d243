"""The command `iecl`, and `python -m iecl_jax`: both are `python -m iecl_jax.main`."""

import runpy


def start() -> None:
    """Runs `iecl_jax.main` as the main module, after which absl names its flags."""
    runpy.run_module("iecl_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    start()
