"""Commands around `iecl_jax.main`: tables, studies, benchmarks, figures."""
