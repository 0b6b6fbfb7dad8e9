"""The synthetic world: scene and sensors with exact ground truth."""
