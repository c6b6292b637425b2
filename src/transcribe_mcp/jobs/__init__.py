"""Durable jobs: a queue, the worker that owns a device, and the library of finished transcripts."""
