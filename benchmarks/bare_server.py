"""`python -m benchmarks.bare_server PORT FILE`: a bare Litestar handler that answers from memory what `api_load` has read before.

FILE is a map of paths to bodies, as MessagePack. The same server and the same socket options as the API's own process.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
import uvicorn
from litestar import Litestar, MediaType, Request, Response, get

from api.server import bind


def main() -> None:
    """Serve until killed."""
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    bodies = msgspec.msgpack.decode(file.read_bytes(), type=dict[str, bytes])

    @get(["/v1/features/{layer:int}/{index:int}", "/v1/features/{layer:int}/{index:int}/neighbors"])
    async def bare(request: Request, layer: int, index: int) -> Response[bytes]:
        return Response(bodies[request.scope["path"]], media_type=MediaType.JSON)

    app = Litestar([bare], openapi_config=None, logging_config=None)
    config = uvicorn.Config(app, ws="none", log_config=None, access_log=False, server_header=False)
    asyncio.run(uvicorn.Server(config).serve(sockets=[bind("127.0.0.1", port)]))


if __name__ == "__main__":
    main()
