"""Read a file, a URL or standard input as blocks of mono float32 samples at 16 kHz.

inputs, source_names      what the user named -> recordings
access, openat, walk      which of them this process may open
download, stdin           URLs and standard input -> files
decode                    a file -> blocks of samples
"""
