"""Recorded logs, one file per format; open_log(path) looks at the content."""
