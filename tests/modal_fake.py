"Stand-ins for what is far away: Modal's control plane, with what it was sent, and the server that an app of it serves."
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest


class FakeModal:
    "Answers the calls that deploying, serving and looking up an app make, and keeps them in `sent`, by name."
    def __init__(self, web_url: str):
        from modal_proto import api_pb2
        self.api = api_pb2
        self.web_url = web_url
        self.sent: dict[str, list] = {}
        self.functions: dict[str, list[str]] = {}   # of each app
        self.secrets = {"stored"}
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()
        port = self.server._server.sockets[0].getsockname()[1]
        self.env = {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{port}",
            "MODAL_TOKEN_ID": "ak-1",
            "MODAL_TOKEN_SECRET": "as-1",
            "MODAL_CONFIG_PATH": "/none",
        }

    async def _start(self):
        from grpclib.server import Server
        from modal_proto.api_grpc import ModalClientBase
        answers = {name: self._answer(name) for name in ModalClientBase.__abstractmethods__}
        service = type("Service", (ModalClientBase,), answers)
        server = Server([service()])
        await server.start("127.0.0.1", 0)
        return server

    def _answer(self, name: str):
        "Modal's call of this name: the method of this name answers it."
        from grpclib import GRPCError, Status
        async def answer(service, stream):
            request = await stream.recv_message()
            self.sent.setdefault(name, []).append(request)
            method = getattr(self, name, None)
            if not method: raise GRPCError(Status.UNIMPLEMENTED, f"the stand-in does not know {name}")
            try: await stream.send_message(method(request))
            except KeyError as e: raise GRPCError(Status.NOT_FOUND, f"{e.args[0]} not found") from None
        return answer

    def close(self):
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)

    # ---- apps

    def AppGetByDeploymentName(self, r): return self.api.AppGetByDeploymentNameResponse()

    def AppCreate(self, r):
        return self.api.AppCreateResponse(app_id="ap-1", app_page_url="https://modal.com/apps/ap-1")

    def AppPublish(self, r):
        self.functions[r.name] = list(r.function_ids)
        return self.api.AppPublishResponse(url="https://modal.com/apps/ap-1", deployed_at=1.0)

    def AppGetLogs(self, r): return self.api.TaskLogsBatch(app_done=True)

    def AppHeartbeat(self, r):
        from google.protobuf.empty_pb2 import Empty
        return Empty()

    AppClientDisconnect = AppHeartbeat

    # ---- what a function is made of

    def EnvironmentGetOrCreate(self, r):
        settings = self.api.EnvironmentSettings(image_builder_version="2025.06")
        metadata = self.api.EnvironmentMetadata(name="main", settings=settings)
        return self.api.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    def MountGetOrCreate(self, r):
        return self.api.MountGetOrCreateResponse(mount_id="mo-1", handle_metadata=self.api.MountHandleMetadata())

    def VolumeGetOrCreate(self, r):
        metadata = self.api.VolumeMetadata(name=r.deployment_name)
        return self.api.VolumeGetOrCreateResponse(volume_id=f"vo-{r.deployment_name}", metadata=metadata)

    def SecretGetOrCreate(self, r):
        name = r.deployment_name
        if name and name not in self.secrets: raise KeyError(f"Secret '{name}'")
        return self.api.SecretGetOrCreateResponse(secret_id="st-1", metadata=self.api.SecretMetadata(name=name))

    def ImageGetOrCreate(self, r):
        return self.api.ImageGetOrCreateResponse(
            image_id=f"im-{len(self.sent['ImageGetOrCreate'])}",
            result=self.api.GenericResult(status=self.api.GenericResult.GENERIC_STATUS_SUCCESS),
            metadata=self.api.ImageMetadata(image_builder_version="2025.06"),
        )

    # ---- functions

    def _handle(self):
        return self.api.FunctionHandleMetadata(
            function_name="serve",
            function_type=self.api.Function.FUNCTION_TYPE_FUNCTION,
            web_url=self.web_url,
            definition_id="de-1",
        )

    def FunctionPrecreate(self, r):
        return self.api.FunctionPrecreateResponse(function_id="fu-1", handle_metadata=self._handle())

    def FunctionCreate(self, r):
        ranked = self.api.FunctionData.RankedFunction(function=r.function)
        self.function = self.api.FunctionData(ranked_functions=[ranked])
        return self.api.FunctionCreateResponse(
            function_id="fu-1",
            function=r.function,
            function_data=self.function,
            handle_metadata=self._handle(),
        )

    def FunctionGet(self, r):
        known = self.functions.get(r.app_name, ())
        if r.object_tag not in known: raise KeyError(f"Function '{r.object_tag}' of app '{r.app_name}'")
        return self.api.FunctionGetResponse(
            function_id="fu-1",
            function=self.function,
            handle_metadata=self._handle(),
        )


class Served(BaseHTTPRequestHandler):
    "An OpenAI-compatible server of one model that is not up at first, wants a key, and sends answers by redirection."
    protocol_version = "HTTP/1.1"

    def log_message(self, *args): pass

    def _send(self, status: int, body: dict, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for name, value in headers.items(): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health": self._health()
        elif self.headers["Authorization"] != f"Bearer {self.server.key}":
            self._send(401, {"error": {"message": "Unauthorized"}})
        elif "call=" in self.path: self._reply()
        else:
            model = {"id": self.server.model, "object": "model", "max_model_len": 8192}
            self._send(200, {"object": "list", "data": [model]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(303, {}, Location=f"{self.path}?call=1")

    def _health(self):
        self.server.polls += 1
        up = self.server.polls > self.server.up_after
        self._send(200 if up else 503, {})

    def _reply(self):
        self.server.answered += 1
        message = {"role": "assistant", "content": "The team likes tea. The answer is 4."}
        self._send(200, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": self.server.model,
            "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        })


@pytest.fixture
def served():
    "A `Served` on a free port, which counts the polls of its health and the replies it gave."
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.model, server.key = "Qwen/Qwen3-8B", "sk-the-key-itself"
    server.up_after = 1   # polls
    server.polls = server.answered = 0
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()

@pytest.fixture
def modal(served):
    pytest.importorskip("modal", reason="modal is not installed: pip install 'agentark[modal]'")
    fake = FakeModal(served.url)
    yield fake
    fake.close()
