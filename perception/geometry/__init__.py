"""Transforms, frames, camera models, boxes, rig and calibration files."""
