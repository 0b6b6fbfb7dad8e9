"""A planner's side: newest objects, never older than it can use. Start `perception launch car.yaml` first.

python planner.py [ENDPOINT]
"""

import sys

import perception
from perception.messages import TrackedObjects

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5560"

with perception.subscribe(endpoint, topics=["objects"]) as subscription:
    for received in subscription:
        objects = received.message
        if not isinstance(objects, TrackedObjects):
            continue
        if received.restarted:
            print("the publisher restarted: tracks begin anew")
        elif received.gap:
            print(f"{received.gap} messages lost")
        if any(not model.trained for model in objects.header.models):
            print("weights are made up: the objects mean nothing; drive by something else")
        ahead = [thing for thing in objects.objects if thing.center_m[0] > 0 and abs(thing.center_m[1]) < 2]
        nearest = min((thing.center_m[0] for thing in ahead), default=float("inf"))
        print(f"{len(objects.objects)} objects, nearest ahead {nearest:.1f} m, {received.age_ms:.0f} ms old")
