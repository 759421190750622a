"""A minimal endpoint picker as one writes it first: grpc.aio, generated classes, round robin, no scheduling at all.

``python -m benchmarks.picker.minimal PORT ADDRESS...``: the peer of ``fleet bench picker``. It keeps the same protocol
(duplex bodies both ways) and does nothing that a picker must not do.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as stubs
from google.protobuf.struct_pb2 import Struct

HEADER = "x-gateway-destination-endpoint"


class Picker(stubs.ExternalProcessorServicer):  # type: ignore[misc]
    """Round robin."""

    def __init__(self, addresses: list[str]) -> None:
        self._next = itertools.cycle(addresses)

    async def Process(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's name
        """One HTTP request."""
        body = []
        async for request in requests:
            kind = request.WhichOneof("request")
            if kind == "request_body":
                body.append(request.request_body.body)
                if request.request_body.end_of_stream:
                    whole = b"".join(body)
                    yield self._headers(len(whole))
                    yield pb.ProcessingResponse(request_body=_chunk(whole, end=True))
            elif kind == "response_headers":
                yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
            elif kind == "response_body":
                part = request.response_body
                yield pb.ProcessingResponse(response_body=_chunk(part.body, end=part.end_of_stream))
            elif kind == "response_trailers":
                yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())

    def _headers(self, length: int) -> Any:
        address = next(self._next)
        answer = pb.ProcessingResponse()
        common = answer.request_headers.response
        common.clear_route_cache = True
        for name, value in ((HEADER, address), ("content-length", str(length))):
            entry = common.header_mutation.set_headers.add()
            entry.header.key, entry.header.raw_value = name, value.encode()
            entry.append_action = 2  # OVERWRITE_IF_EXISTS_OR_ADD
        inside = Struct()
        inside.update({HEADER: address})
        answer.dynamic_metadata.update({"envoy.lb": inside})
        return answer


def _chunk(body: bytes, *, end: bool) -> Any:
    streamed = pb.StreamedBodyResponse(body=body, end_of_stream=end)
    return pb.BodyResponse(response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=streamed)))


async def serve(port: int, addresses: list[str]) -> None:
    """Serve for ever."""
    server = grpc.aio.server()
    stubs.add_ExternalProcessorServicer_to_server(Picker(addresses), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:]))
