"""The client of the conformance cases. In: a JSON list of what to ask. Out: a JSON list of what came, one for each.

A question: `scheme`, `to` (host and port), and by scheme `method`, `path`, `headers`, `name` (for TLS), `count`.
"""

import http.client
import json
import socket
import ssl
import sys

PORTS = {"http": 80, "https": 443, "grpc": 7070, "tcp": 9090}
TIME = 20


def address(ask):
    host, _, port = ask["to"].rpartition(":") if ":" in ask["to"] else (ask["to"], "", "")
    return host, int(port or PORTS[ask["scheme"]])


def body(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def by_http(ask):
    connection = http.client.HTTPConnection(*address(ask), timeout=TIME)
    if ask["scheme"] == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        connection.connect()
        connection.sock = tls.wrap_socket(connection.sock, server_hostname=ask["name"])
    for _ in range(ask["count"]):
        connection.putrequest(ask["method"], ask["path"], skip_host=True, skip_accept_encoding=True)
        headers = {"Host": ask["to"], **dict(ask["headers"])}
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        text = response.read()
        yield {
            "status": response.status,
            "headers": [[name.lower(), value] for name, value in response.getheaders()],
            "seen": body(text),
            "text": text.decode(errors="replace")[:200],
        }
    connection.close()


def by_grpc(ask):
    import grpc

    with grpc.insecure_channel("%s:%d" % address(ask)) as channel:
        call = channel.unary_unary(ask["path"])
        for _ in range(ask["count"]):
            try:
                said = call(b"", timeout=TIME, metadata=[(name.lower(), value) for name, value in ask["headers"]])
                yield {"status": 0, "headers": [], "seen": body(said)}
            except grpc.RpcError as error:
                yield {"status": error.code().value[0], "headers": [], "seen": None, "text": error.details()}


def by_tcp(ask):
    for number in range(ask["count"]):
        with socket.create_connection(address(ask), timeout=TIME) as stream:
            stream.sendall(b"line %d\n" % number)
            yield {"status": 0, "headers": [], "seen": body(stream.makefile().readline())}


WAYS = {"http": by_http, "https": by_http, "grpc": by_grpc, "tcp": by_tcp}


def came(ask):
    answers = []
    try:
        answers += WAYS[ask["scheme"]](ask)
    except (OSError, http.client.HTTPException) as error:
        answers.append({"status": -1, "headers": [], "seen": None, "text": repr(error)})
    pods = {}
    for answer in answers:
        pod = (answer["seen"] or {}).get("pod", "none")
        pods[pod] = pods.get(pod, 0) + 1
    return {**answers[-1], "pods": pods, "all": [[a["status"], a["seen"]] for a in answers] if ask["each"] else []}


json.dump([came(ask) for ask in json.loads(sys.argv[1])], sys.stdout)
