"""LiDAR packets: what the sensors send over UDP, recorded or live, assembled into sweeps."""
