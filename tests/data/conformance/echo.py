"""The app of the conformance cases: over HTTP, HTTPS, gRPC and plain TCP it says which pod it is and what it saw.

`X-Echo-Set-Header: Name:value,Name:value` has it answer with these headers. `?delay=1s` makes it slow,
`?responseCode=500&succeedAfter=2&uuid=x` makes it fail so often first. `/seen/PATH` says how often PATH was asked for. The line `stop` over TCP ends TCP and HTTPS.
"""

import collections
import concurrent.futures
import http.server
import json
import os
import socket
import socketserver
import ssl
import threading
import time
import urllib.parse

import grpc

POD = os.environ.get("PREFIX", "") + socket.gethostname()
seen, failed, lock = collections.Counter(), collections.Counter(), threading.Lock()


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    # A response is written at once: its body does not wait until the kernel of the other side has acknowledged its head.
    wbufsize = -1

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        path, _, query = self.path.partition("?")
        if path.startswith("/seen/"):
            return self.say(200, {"count": seen[path.removeprefix("/seen")]})
        asked = {name: values[-1] for name, values in urllib.parse.parse_qs(query).items()}
        status = 200
        with lock:
            seen[path] += 1
            if "uuid" in asked:
                failed[asked["uuid"]] += 1
                if failed[asked["uuid"]] <= int(asked["succeedAfter"]):
                    status = int(asked["responseCode"])
        time.sleep(float(asked.get("delay", "0s").removesuffix("s")))
        self.say(status, {
            "pod": POD,
            "method": self.command,
            "path": self.path,
            "host": self.headers.get("host"),
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
        })

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def say(self, status, what):
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for pair in filter(None, self.headers.get("x-echo-set-header", "").split(",")):
            self.send_header(*pair.split(":", 1))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words):
        pass


class Lines(socketserver.StreamRequestHandler):
    timeout = 60

    def handle(self):
        for line in self.rfile:
            if line == b"stop\n":
                for server in streams:
                    server.shutdown()
                    server.server_close()
            self.wfile.write(json.dumps({"pod": POD, "line": line.decode().strip()}).encode() + b"\n")


class Http(http.server.ThreadingHTTPServer):
    address_family, daemon_threads, request_queue_size = socket.AF_INET6, True, 128


class Https(Http):
    def __init__(self, *words):
        super().__init__(*words)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain("/app/cert.pem", "/app/key.pem")

    def finish_request(self, request, address):
        request.settimeout(60)
        super().finish_request(self.tls.wrap_socket(request, server_side=True), address)

    def handle_error(self, *words):
        pass


class Tcp(socketserver.ThreadingTCPServer):
    address_family, daemon_threads, request_queue_size, allow_reuse_address = socket.AF_INET6, True, 128, True


class Methods(grpc.GenericRpcHandler):
    """Any unary method, with a message of any bytes."""

    def service(self, call):
        def answer(_, context):
            metadata = [[pair.key, str(pair.value)] for pair in context.invocation_metadata()]
            return json.dumps({"pod": POD, "path": call.method, "headers": metadata}).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


calls = grpc.server(concurrent.futures.ThreadPoolExecutor(8), handlers=[Methods()])
calls.add_insecure_port("[::]:7070")
calls.start()
streams = [Tcp(("::", 9090), Lines), Https(("::", 8443), Echo)]
for server in streams:
    threading.Thread(target=server.serve_forever, daemon=True).start()
Http(("::", 8080), Echo).serve_forever()
