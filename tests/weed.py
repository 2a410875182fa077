"""The real S3 server of the demo, for tests."""

from services.demo.weed import ADMIN, BUCKET, READER, Keys, Weed, find_weed, free_ports, running_weed

__all__ = ["ADMIN", "BUCKET", "READER", "Keys", "Weed", "find_weed", "free_ports", "running_weed"]
