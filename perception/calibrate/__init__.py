"""The calibration tools."""
