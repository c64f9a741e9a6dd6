#!/usr/bin/env python
"""The routes of serve.py behind Ray Serve, one replica a card or a machine of a cluster:

    pip install .[serve] "ray[serve]"; python examples/serve_ray.py FILE.pt [REPLICAS [NPU|GPU]]

FILE.pt lies where every machine can read it. Ctrl+C ends it.
"""

import sys

from ray import serve
from serve import load, make_app

WAITING = 1024  # requests that a replica has at a time, which share its rows


def make_deployment(file, replicas=1, card=None):
    """`card` is the Ray resource of which each replica gets one, and sees no other."""
    cards = {"NPU": {"resources": {"NPU": 1}}, "GPU": {"num_gpus": 1}, None: {}}

    @serve.deployment(
        num_replicas=int(replicas), max_ongoing_requests=WAITING, ray_actor_options=cards[card]
    )
    @serve.ingress(lambda: make_app(load(file)))
    class Service:
        pass

    return Service.bind()


if __name__ == "__main__":
    serve.run(make_deployment(*sys.argv[1:]), blocking=True)
