"""`python -m services.common.probe HOST:PORT`: exit 0 when the gRPC server there is serving (a health check)."""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2


def is_serving(target: str, *, timeout: float = 2.0) -> bool:
    """Whether the server at `target` answers grpc.health.v1 Check with SERVING within `timeout` seconds."""
    with grpc.insecure_channel(target) as channel:
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
    sys.exit(0 if is_serving(sys.argv[1]) else 1)
