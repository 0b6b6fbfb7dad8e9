"""Has a sensor moved since it was calibrated? Told from an ordinary recording, without boards.

ego_track.py      where the vehicle was at each instant, by its odometry
lidar_motion.py   LiDAR against odometry (surfaces stay where they are) and against the road
lidar_edges.py    where the depth of a sweep jumps
camera_edges.py   those edges against the edges of pictures: camera against LiDAR
findings.py       which sensor it is, and whether it matters
"""
