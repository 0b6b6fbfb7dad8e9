"""Calibrations of other tools, read and written: one file per format, each with `read(path)` and `write(path, ...)`.

    kalibr      camchain.yaml                        ros        CameraInfo as YAML
    nuscenes    calibrated_sensor.json               kitti      calib_cam_to_cam.txt and calib_velo_to_cam.txt
    autoware    sensor_kit_calibration.yaml          ocamcalib  calib_results.txt
    opencv      YAML of cv::FileStorage              perception our own: a rig's folder, or single files

What a format cannot hold is refused when it is written, never left out in silence.
"""
