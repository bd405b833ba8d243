"""What evaluations are made of: their subject, their schedule, jobs; and the diagnostics."""
