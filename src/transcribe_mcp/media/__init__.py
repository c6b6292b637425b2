"""A file, a URL or standard input -> mono float32 samples at 16 kHz, in blocks.

inputs, source_names      what the user named -> recordings
access, openat, walk      which of them this process may open
download, stdin           URLs and standard input -> files
decode                    a file -> blocks of samples
"""
