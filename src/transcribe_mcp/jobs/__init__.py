"""Durable jobs: a queue, a worker for every device, and the database of transcripts."""
