"""Real clients, one question each: `driver.py direct|PORT one-by-one|together CLIENT[=SILENCE]...`

PORT is that of every Service; `direct` goes to the servers over the loopback, where there is no mesh. For each client one
line of JSON: how long it took from the first step of connecting to the first answer, the last one, and where it was asked.
"""

import concurrent.futures
import http.client
import json
import os
import shutil
import smtplib
import socket
import subprocess
import sys
import time

# By name of client: the Service, and the server's own port.
SERVERS = {
    "psql": ("postgres", 5432),
    "mariadb": ("mariadb", 3306),
    "redis-cli": ("redis", 6379),
    "smtplib": ("mail", 2525),
    "ssh": ("ssh", 2222),
    "nats-req": ("nats", 4222),
    "pymongo": ("mongo", 27017),
    "http": ("web", 8080),
    "grpcio": ("greeter", 50051),
    "late-h2": ("greeter", 50051),
}
PATIENCE = 60


def run(*command):
    """Starts a client, and gives what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, text=True)
    if done.returncode:
        raise RuntimeError("%s: %s" % (done.returncode, done.stdout))
    return done.stdout.strip()


def psql(host, port, _, connected):
    run("pg_isready", "-h", host, "-p", str(port), "-t", str(PATIENCE))
    connected()
    return run("psql", "-h", host, "-p", str(port), "-U", "app", "postgres", "-Atc", "select 6 * 7")


def mariadb(host, port, *_):
    login = ["-h", host, "-P", str(port), "-u", "app", "-psecret"]
    return run("mariadb", "--no-defaults", *login, "-BNe", "select 6 * 7")


def redis_cli(host, port, *_):
    return run("redis-cli", "-h", host, "-p", str(port), "--raw", "eval", "return 6 * 7", "0")


def smtplib_(host, port, _, connected):
    with smtplib.SMTP(host, port, local_hostname="client.peers", timeout=PATIENCE) as server:
        server.ehlo_or_helo_if_needed()
        connected()
        server.mail("six@client.peers")
        server.rcpt("seven@mail.peers")
        return str(server.data("Subject: a question\r\n\r\n6 * 7?\r\n")[0])


def ssh(host, port, _, connected):
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=60"]
    options = [word for option in options for word in ("-o", option)]
    login = ["-v", "-i", "/tmp/id", "-p", str(port), "app@" + host, "echo $((6 * 7))"]
    client = subprocess.Popen(
        ["ssh", "-F", "/dev/null", *options, *login], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # It is connected with its first answer: all the keys after it are a hundred times dearer than the mesh.
    log = []
    for line in client.stderr:
        log.append(line)
        if "Remote protocol version" in line:
            connected()
            break
    said, rest = client.communicate(timeout=PATIENCE)
    if client.returncode:
        raise RuntimeError("%s: %s%s" % (client.returncode, "".join(log), rest))
    return said.strip()


def nats_req(host, port, *_):
    said = run(os.environ["NATS_REQ"], "-s", "nats://%s:%d" % (host, port), "question", "6 * 7")
    return said.rsplit("'", 2)[-2]


def pymongo_(host, port, _, connected):
    timeouts = dict.fromkeys(["serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS"], PATIENCE * 1000)
    client = pymongo.MongoClient(host, port, **timeouts)
    client.admin.command("ping")
    connected()
    answers = client["peers"]["answers"]
    answers.replace_one({"_id": "6 * 7"}, {"_id": "6 * 7", "answer": 42}, upsert=True)
    said = str(answers.find_one({"_id": "6 * 7"})["answer"])
    client.close()
    return said


def http_(host, port, silence, _):
    client = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    client.connect()
    time.sleep(silence)
    client.request("GET", "/6*7", headers={"host": "web"})
    response = client.getresponse()
    return "%s %s %s" % (response.status, response.getheader("x-route"), response.read().decode().strip())


def grpcio(host, port, *_):
    with grpc.insecure_channel("%s:%d" % (host, port), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        ask = channel.unary_unary("/questions.Answers/Ask")
        answer, call = ask.with_call(b"6 * 7", timeout=PATIENCE, wait_for_ready=True)
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        return "%s %s %s" % (answer.decode(), initial.get("x-route"), trailing.get("asked"))


def late_h2(host, port, silence, _):
    """HTTP/2 by hand, since no client of gRPC can be made to wait: our SETTINGS are acknowledged."""
    with socket.create_connection((host, port), timeout=PATIENCE) as stream:
        time.sleep(silence)
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        frames = stream.makefile("rb")
        while True:
            head = frames.read(9)
            if len(head) < 9:
                return "the server ended"
            frames.read(int.from_bytes(head[:3], "big"))
            if head[3:5] == b"\4\1":
                return "acknowledged"


CLIENTS = {
    "psql": psql,
    "mariadb": mariadb,
    "redis-cli": redis_cli,
    "smtplib": smtplib_,
    "ssh": ssh,
    "nats-req": nats_req,
    "pymongo": pymongo_,
    "http": http_,
    "grpcio": grpcio,
    "late-h2": late_h2,
}


def ask(client, where):
    name, _, silence = client.partition("=")
    service, port = SERVERS[name]
    # Names are not what is measured.
    at = ("127.0.0.1", port) if where == "direct" else (socket.gethostbyname(service), int(where))
    began = time.monotonic()
    ends = []
    try:
        said = CLIENTS[name](*at, float(silence or 0), lambda: ends.append(time.monotonic()))
    except Exception as error:
        said = "%s: %s" % (type(error).__name__, error)
    took = ((ends or [time.monotonic()])[0] - began) * 1000
    return {"client": name, "ms": took, "said": said, "at": "%s:%d" % at}


def main():
    where, how, clients = sys.argv[1], sys.argv[2], sys.argv[3:]
    if "ssh" in clients:
        # A key must be its user's own, and nobody else's to read.
        shutil.copy("/peers/id", "/tmp/id.%d" % os.getpid())
        os.chmod("/tmp/id.%d" % os.getpid(), 0o600)
        os.replace("/tmp/id.%d" % os.getpid(), "/tmp/id")
    workers = len(clients) if how == "together" else 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for answer in pool.map(lambda client: ask(client, where), clients):
            print(json.dumps(answer), flush=True)


if "pymongo" in sys.argv:
    import pymongo
if "grpcio" in sys.argv:
    import grpc
main()
