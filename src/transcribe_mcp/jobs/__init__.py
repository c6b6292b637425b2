"""Durable jobs: a queue, the workers that own a device each, and the library of finished transcripts."""
