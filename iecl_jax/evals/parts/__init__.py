"""Parts that evaluations share (subject, schedule, jobs, results), and the diagnostics."""
