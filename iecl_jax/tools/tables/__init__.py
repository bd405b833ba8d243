"""Measures the paper's numerical tables and figures, and writes them as Markdown and pictures."""
