"""InfluenceService: each method converts, calls and converts."""
# ruff: noqa: N802  methods have the names of the RPCs

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import grpc
from eif.influence.v1 import audit_pb2, influence_service_pb2_grpc, job_pb2
from eif.influence.v1 import influence_service_pb2 as service_pb2
from google.protobuf import empty_pb2

from services.common.rpc_errors import translate_errors
from services.influence.converters import (
    DOMAIN,
    read_count,
    read_job_name,
    read_new_job,
    read_states,
    write_event,
    write_job,
    write_server_info,
)
from services.influence.gate.converters import (
    read_compare_request,
    read_evaluate_request,
    write_changes,
    write_verdict,
)
from services.influence.gate.service import GateService
from services.influence.job_files import JobFiles
from services.influence.jobs import JobService
from services.influence.names import parse_parent
from services.influence.result_converters import (
    read_file_request,
    read_page_request,
    read_stream_request,
    write_chunk,
    write_page,
    write_part,
)
from services.influence.result_service import ResultService
from services.influence.server_info import InfoService

NAME = service_pb2.DESCRIPTOR.services_by_name["InfluenceService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class InfluenceServicer(influence_service_pb2_grpc.InfluenceServiceServicer):
    """The service over gRPC.

    Streams are coroutines that write, not generators: those are not closed when a client goes away.
    """

    def __init__(
        self, *, jobs: JobService, results: ResultService, files: JobFiles, gate: GateService, info: InfoService
    ) -> None:
        self._jobs = jobs
        self._results = results
        self._files = files
        self._gate = gate
        self._info = info

    async def CreateInfluenceJob(
        self, request: service_pb2.CreateInfluenceJobRequest, context: Context
    ) -> job_pb2.InfluenceJob:
        async with translate_errors(context, "CreateInfluenceJob", DOMAIN):
            return write_job(await self._jobs.create(read_new_job(request)))

    async def GetInfluenceJob(
        self, request: service_pb2.GetInfluenceJobRequest, context: Context
    ) -> job_pb2.InfluenceJob:
        async with translate_errors(context, "GetInfluenceJob", DOMAIN):
            return write_job(await self._jobs.get(read_job_name(request.name)))

    async def ListInfluenceJobs(
        self, request: service_pb2.ListInfluenceJobsRequest, context: Context
    ) -> service_pb2.ListInfluenceJobsResponse:
        async with translate_errors(context, "ListInfluenceJobs", DOMAIN):
            listed = await self._jobs.list(
                parse_parent(request.parent),
                states=read_states(request.states),
                page_size=read_count(request.page_size, "page_size"),
                page_token=request.page_token,
            )
            return service_pb2.ListInfluenceJobsResponse(
                influence_jobs=map(write_job, listed.jobs), next_page_token=listed.next_page_token
            )

    async def CancelInfluenceJob(
        self, request: service_pb2.CancelInfluenceJobRequest, context: Context
    ) -> job_pb2.InfluenceJob:
        async with translate_errors(context, "CancelInfluenceJob", DOMAIN):
            return write_job(await self._jobs.cancel(read_job_name(request.name)))

    async def DeleteInfluenceJob(
        self, request: service_pb2.DeleteInfluenceJobRequest, context: Context
    ) -> empty_pb2.Empty:
        async with translate_errors(context, "DeleteInfluenceJob", DOMAIN):
            name = read_job_name(request.name)
            await self._jobs.delete(name, etag=request.etag, allow_missing=request.allow_missing)
            return empty_pb2.Empty()

    async def WatchInfluenceJob(  # type: ignore[override]  # a coroutine that writes, see the class
        self, request: service_pb2.WatchInfluenceJobRequest, context: Context
    ) -> None:
        async with (
            translate_errors(context, "WatchInfluenceJob", DOMAIN),
            aclosing(self._jobs.watch(read_job_name(request.name))) as events,
        ):
            async for event in events:
                await context.write(write_event(event))

    async def ListJobResults(
        self, request: service_pb2.ListJobResultsRequest, context: Context
    ) -> service_pb2.ListJobResultsResponse:
        async with translate_errors(context, "ListJobResults", DOMAIN):
            page = await self._results.page(read_page_request(request))
            return await asyncio.to_thread(write_page, page)

    async def StreamRankedSamples(  # type: ignore[override]  # a coroutine that writes, see the class
        self, request: service_pb2.StreamRankedSamplesRequest, context: Context
    ) -> None:
        async with (
            translate_errors(context, "StreamRankedSamples", DOMAIN),
            aclosing(self._results.chunks(read_stream_request(request))) as chunks,
        ):
            async for chunk, resume_token in chunks:
                await context.write(write_chunk(chunk, resume_token))

    async def ReadJobFile(  # type: ignore[override]  # a coroutine that writes, see the class
        self, request: service_pb2.ReadJobFileRequest, context: Context
    ) -> None:
        async with (
            translate_errors(context, "ReadJobFile", DOMAIN),
            aclosing(self._files.parts(read_file_request(request))) as parts,
        ):
            async for part in parts:
                await context.write(write_part(part))

    async def EvaluateAudit(
        self, request: service_pb2.EvaluateAuditRequest, context: Context
    ) -> audit_pb2.AuditVerdict:
        async with translate_errors(context, "EvaluateAudit", DOMAIN):
            return write_verdict(await self._gate.evaluate(read_evaluate_request(request)))

    async def CompareAudits(
        self, request: service_pb2.CompareAuditsRequest, context: Context
    ) -> service_pb2.CompareAuditsResponse:
        async with translate_errors(context, "CompareAudits", DOMAIN):
            return await asyncio.to_thread(write_changes, await self._gate.compare(read_compare_request(request)))

    async def GetServerInfo(
        self,
        request: service_pb2.GetServerInfoRequest,  # noqa: ARG002  it is empty
        context: Context,
    ) -> service_pb2.ServerInfo:
        async with translate_errors(context, "GetServerInfo", DOMAIN):
            return write_server_info(await self._info.read())
