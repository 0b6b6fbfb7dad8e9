"""Recordings of event cameras: a decoder per format, and the log that streams any of them."""
