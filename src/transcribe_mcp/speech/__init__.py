"""Blocks of samples -> regions of speech -> windows -> log-mel features."""
