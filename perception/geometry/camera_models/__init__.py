"""What bends a ray on its way to the picture: one file per camera model, on the plane before focal lengths and centre.

Each file has the same four functions of the model's coefficients:

    project(coefficients, points)    (N, 3) to places on the plane (N, 2), and (N,) where the model has one
    unproject(coefficients, places)  (N, 2) to rays (N, 3) of any length, and (N,) where the model has one
    jacobian(coefficients, points)   (N, 2, 3) derivative of `project` by the point; finite nonsense where not valid
    angle_limit(coefficients)        largest angle to the optical axis that the model can project, radians

`Camera` (geometry/cameras.py) is what everything else uses.
"""
