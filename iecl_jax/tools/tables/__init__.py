"""The paper's tables and figures of numbers: rows, runs, statistics, Markdown and pictures."""
