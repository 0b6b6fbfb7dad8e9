"""Has a sensor moved since it was calibrated? Told from an ordinary recording, without boards.

recording.py      what is looked at: sweeps, the way of the vehicle, pictures
ego_track.py      where the vehicle was at each instant, by its odometry
lidar_motion.py   LiDAR against odometry (surfaces stay where they are) and against the road
lidar_edges.py    where the depth of a sweep jumps
edge_search.py    where a picture has an edge near such a line
camera_edges.py   those edges against the edges of pictures: camera against LiDAR
surface_points.py what the LiDAR measured while a camera took a picture
looks.py          pictures of one camera, smoothed
camera_texture.py points look alike in two pictures: how a camera looks, against odometry
camera_overlap.py points look alike to two cameras that pass them: where cameras are, against each other
estimate.py       what either tells of a sensor's place, and how surely
findings.py       which sensor it is, and what the recording cannot tell
rig_check.py      all of it, for a rig
"""
