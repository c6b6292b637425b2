"""Measuring: word error rates, speed, and comparisons with other programs."""
