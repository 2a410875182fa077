"""The real S3 server of the demo, for tests."""

from services.demo.weed import ADMIN, BUCKET, NEXT_ADMIN, READER, Keys, Weed, find_weed, free_ports, running_weed

__all__ = ["ADMIN", "BUCKET", "NEXT_ADMIN", "READER", "Keys", "Weed", "find_weed", "free_ports", "running_weed"]
