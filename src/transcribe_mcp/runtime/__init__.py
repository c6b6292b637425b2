"""Runs models: which windows go to which device, when, and what happens when memory or a device
fails.
"""
