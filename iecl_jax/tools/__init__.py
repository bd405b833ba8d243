"""Commands beside `iecl_jax.main`: tables, studies, benchmarks, figures, data preparation."""
