"""Messages of ROS 1 and ROS 2, and the bags they are recorded in."""
