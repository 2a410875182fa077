"""`python -m services.common.probe HOST:PORT`: exit 0 when the gRPC server there is serving (a health check).

EIF_CLIENT_CA_FILE and the like say how to reach a server with TLS, as they do for `eif`.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2

from services.client.channel import open_channel
from services.client.credentials import Credentials


def is_serving(target: str, *, timeout: float = 2.0, credentials: Credentials | None = None) -> bool:
    """Whether the server at `target` answers grpc.health.v1 Check with SERVING within `timeout` seconds."""
    with open_channel(target, credentials=credentials or Credentials()) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            reply = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1], credentials=Credentials.from_environ(os.environ)) else 1)
