"""One recording: windows in, transcript out."""
