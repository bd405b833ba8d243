"""python -m iecl_jax.tables: see `iecl_jax.tables.command`."""

from iecl_jax.tables.command import main

if __name__ == "__main__":
    main()
