"""Read the objects of a running graph with pyzmq and msgpack alone: python wire.py [ENDPOINT]."""

import sys

import msgpack
import zmq

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5560"
socket = zmq.Context().socket(zmq.SUB)
socket.connect(endpoint)
socket.subscribe("objects")
last: dict[bytes, tuple[str, int, int]] = {}

while True:
    topic, data = socket.recv_multipart()
    header, body, *_buffers, timing = msgpack.unpackb(data)
    run, epoch, seq = header["run"], header["epoch"], header["seq"]
    before = last.get(topic, (run, epoch, seq - 1))
    if before[:2] != (run, epoch):
        print("the publisher restarted")
    elif seq != before[2] + 1:
        print(f"{seq - before[2] - 1} messages lost")
    last[topic] = (run, epoch, seq)
    trust = "UNTRAINED, means nothing" if any(not model["trained"] for model in header["models"]) else "ok"
    since_ns = header["t_sensor_ns"] if header["clock"] == "host" else timing["t_received_ns"]
    print(f"{topic.decode()} {(timing['t_published_ns'] - since_ns) / 1e6:.0f} ms old, {trust}, {header['degraded']}")
    for thing in body["objects"]:
        name, probability = thing["classes"][0]
        x, y, z = thing["center_m"]
        print(f"  {name} {probability:.2f} at {x:.1f} {y:.1f} {z:.1f} m")
