"""Measure word error rates and speed, and compare with other programs."""
