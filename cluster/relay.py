#!/usr/bin/env python3
"""Leads from a port of the host's loopback to an address inside of a network namespace.

In: a process that is in the namespace, the address, and a file for the port that was found. The listener is made before
the namespace is entered and stays the host's; connections are made after and are the namespace's. So the API server of a
cluster can be reached from the host, and nothing of the host's network changes.
"""

import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16
# More connections than a test suite has; beyond it they wait in the kernel's queue.
CONNECTIONS = 512


def enter(pid):
    """Moves this process into the network namespace of another one."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net", "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"network namespace of {pid}")


async def pump(reader, writer):
    """Carries bytes one way, and the end of them."""
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def carry(reader, writer, host, port):
    """Serves one connection until both ways have ended, or one has failed."""
    writers = [writer]
    try:
        there_reader, there_writer = await asyncio.open_connection(host, port)
        writers.append(there_writer)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
    except OSError:
        pass  # Either side went away: the other one learns it by the close below.
    finally:
        for each in writers:
            each.close()


async def serve(listener, host, port):
    """Accepts for ever."""
    slots = asyncio.Semaphore(CONNECTIONS)
    # The loop itself holds tasks weakly only.
    tasks = set()
    loop = asyncio.get_running_loop()

    async def one(connection):
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            await carry(reader, writer, host, port)
        finally:
            slots.release()

    while True:
        await slots.acquire()
        connection, _ = await loop.sock_accept(listener)
        task = asyncio.create_task(one(connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def main():
    """relay.py PID HOST PORT PORT-FILE"""
    pid, host, port, port_file = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    enter(pid)
    # Whole, or not there: it is waited for.
    with open(port_file + ".new", "w", encoding="ascii") as file:
        file.write(str(listener.getsockname()[1]))
    os.rename(port_file + ".new", port_file)
    asyncio.run(serve(listener, host, int(port)))


if __name__ == "__main__":
    main()
