"""The client of the influence service.

with InfluenceClient("127.0.0.1:50051") as client:
    job = client.rank(model="s3://b/model", train="s3://b/train.parquet", test="s3://b/test.parquet")
    client.wait(job)
    for sample in client.stream_ranked_samples(job, max_rows=100):
        print(sample.rank, sample.sample_id, sample.score)
"""

from __future__ import annotations

from eif.influence.v1 import influence_service_pb2

from services.client.audit_calls import AuditCalls
from services.client.influence_calls import DEFAULT_TARGET
from services.client.job_calls import JobCalls
from services.client.job_converters import server_info_of
from services.client.jobs import InfluenceServerInfo
from services.client.result_calls import ResultCalls
from services.client.submission_calls import SubmissionCalls

__all__ = ["DEFAULT_TARGET", "InfluenceClient"]


class InfluenceClient(SubmissionCalls, JobCalls, ResultCalls, AuditCalls):
    """Submits jobs, follows them and reads their results. Thread-safe. Close it, or use it in a `with`.

    Every method raises EifRpcError (services/client/errors.py). A job is given as a Job, as its name or as its id.

    Args:
        target: `host:port` of the service.
        project: Project of the jobs that are created, listed, or named by id only.
        timeout: Seconds until a call that is not a stream is given up.
        reconnect: How patient streams are when the connection is lost.
        credentials: TLS and who calls; plain text and nobody by default. `Credentials.from_environ(os.environ)` reads
            EIF_CLIENT_*. Those that cannot be used raise CredentialsError.
    """

    def server_info(self) -> InfluenceServerInfo:
        """What the server is and what its limits are."""
        return server_info_of(
            self._connection.call(self._stub.GetServerInfo, influence_service_pb2.GetServerInfoRequest())
        )
