"""Server interceptors in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc


@dataclass(frozen=True, kw_only=True)
class Interceptors:
    """Server interceptors by what they do; they run in this order, behind the call log, which sees every refusal."""

    admission: Sequence[grpc.aio.ServerInterceptor] = ()
    authentication: Sequence[grpc.aio.ServerInterceptor] = ()
    authorization: Sequence[grpc.aio.ServerInterceptor] = ()

    def in_order(self) -> list[grpc.aio.ServerInterceptor]:
        return [*self.admission, *self.authentication, *self.authorization]
