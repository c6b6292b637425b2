"""Doing work ahead of time and on devices."""
