"""Runs `python -m iecl_jax.tools.tables`, see `iecl_jax.tools.tables.command`."""

from iecl_jax.tools.tables.command import main

if __name__ == "__main__":
    main()
